//go:build !race

package brokertest

// Slowdown is how much longer things may take: no longer than they should.
const Slowdown = 1
