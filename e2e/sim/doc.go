// Package sim runs the whole application in one process and in virtual time, and checks after every run that nothing
// was lost, doubled, put out of order or left undone.
//
// What runs is the services' real code, from the configuration and the HTTP server to the ledger and the SQL. What is
// simulated is what surrounds them: the clock (testing/synctest), the network, the disks, the broker
// (framework/event/eventtest) and the users. A seed decides what users do and when, how long every statement takes, and
// what fails: statements, commits, messages, connections, processes at any step, and the broker with all that it has
// stored. When the faults are over and the system has become quiet, the invariants are checked.
//
// docs/testing.md tells how to run it and what to do with a seed that fails.
package sim
