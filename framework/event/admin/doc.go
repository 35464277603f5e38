// Package admin is what operators see and do in the ledgers of services: which
// events were committed, what waits and why, how far every listener group is,
// and how to put right what no service can put right by itself.
//
// A [Ledger] is one service's. [New] reads it where it is, in the service's
// database, whether the service runs or not; [Dial] asks the running service
// over its admin port, where [Handler] answers. Both do the same.
//
// What is true of an event is spread over several ledgers: its producer's and
// those of all groups that listen. [Trace], [Lag], [Audit] and [Brokers] put
// them together; they are only as complete as the ledgers that they are given.
// A service that runs is never stopped or held up by being looked at.
package admin
