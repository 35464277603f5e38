// Package e2e tests the system from outside: it starts the real programs as child processes, by the command line that
// developers use, talks to them over HTTP, kills them with SIGKILL, and reads in their databases whether every event
// has had its effect exactly once.
//
// The tests need nothing but Go, and a few minutes; `go test -short` leaves them out. Every system that they start has
// a workspace of its own in a temporary folder, free ports, and an environment in which nothing of the user's
// configuration counts.
package e2e
