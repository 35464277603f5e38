// Package event makes every event take effect exactly once, in order per key,
// on brokers that promise neither. Services publish and handle typed events;
// a ledger in their own databases does the rest.
//
// # The idea
//
// Every event belongs to a stream (one per aggregate type, "orders") and to a
// key (the aggregate's id), and has a number within its key: 1, 2, 3, …
//
// Publishing writes the event to an outbox in the caller's transaction. The
// number is taken just before the commit, under the lock of the key's row, so
// the order of numbers is the order of commits, and an abort leaves no hole.
//
// Every listener group keeps a cursor for each key in its own database, and
// moves it in the transaction of the handler's effects. An event whose number
// is not above the cursor is a duplicate and dropped; the next one is handled;
// one further ahead is parked in a table until those before it have come. So a
// broker may repeat, reorder, delay and even forget: what it was told stays in
// the outbox for a while and is sent again whenever it is in doubt.
//
//	service A                          broker        service B
//	InTx { change, Publish }                         InTx { cursor, handler, Publish }
//	      │ commit                                        ▲ commit, then acknowledge
//	  event_outbox ──── relay ────────► stream ────► batch ┴─► event_parked, event_letter
//
// # Using it
//
// [Outbox] publishes, inside a transaction and nowhere else. [Listener] has the
// handlers, registered with [Handle]. [Client] runs both over a session with a
// [Broker], or with several at once: packages stan and jetstream are those for
// NATS Streaming and JetStream, broker chooses among them by configuration, and
// eventtest has one in memory with faults on demand. Package admin is for operators. The example
// shows a service that publishes and handles.
//
// A handler's error steers the listener: nil commits, [Dead] gives up at once,
// [RetryAfter] names the next attempt, and anything else is tried again with
// backoff until [Config].Attempts are used up. Then the event is dead, which
// people are told, and waits for an operator. Meanwhile only its own key waits.
//
// # What is promised, and where it stops
//
//   - An event is published if and only if its transaction commits.
//   - Its effect in a group's database happens exactly once, and in the order of
//     its key's commits. What a handler does elsewhere (a call to another
//     system) may be repeated: give such calls an idempotency key, for which
//     the event's id is good.
//   - Between keys there is no order, and between groups none either.
//   - It holds as long as the two databases keep what they committed, and the
//     outbox keeps what was sent ([Config].Archive) for longer than a broker
//     takes to lose it. A producer restored from a backup gives numbers out
//     again; listeners see that and say so (a letter of kind "fork").
//   - A group that subscribes late starts with the oldest message that the
//     broker still has. It takes what was numbered before its time as the
//     beginning of a key if what came before is gone.
//   - A scheduled event ([At]) is published once it is due, never before, also
//     if no process was alive at the time.
//
// # Rules of the ledger
//
// They look as if some could be relaxed. Each has a test that fails if it is.
//
//  1. Numbers are taken in one statement at the commit, sorted by key, from a
//     row and never from a database sequence, which leaves holes.
//  2. Locks are taken in one order everywhere: cursors, the service's own rows,
//     sequence rows, scheduled rows; each kind sorted.
//  3. A batch creates cursors, locks them, and then reads what is parked, in
//     three statements, before it calls any handler.
//  4. What is parked is released in the transaction that closes the gap. If a
//     released event fails, the batch is done again one event at a time, so
//     that the event which closed the gap is not blamed.
//  5. The sweep makes the attempts that are due and finishes what a failed
//     release left. It records an attempt before making it, so an event that
//     kills its process is counted, too; and an event that a broker delivers a
//     second time goes that way at once.
//  6. An attempt is recorded only if the event is still the cursor's next.
//  7. A member that meets a type which it does not know, but another member of
//     its group does, leaves the event to that one.
//  8. The relay marks an event sent after the broker's acknowledgement. At
//     every loss of the session and at every start it has everything sent again
//     that was marked shortly before. That it will is recorded before it sends
//     anything new; that it does so may wait while sessions keep breaking.
//     With several brokers one acknowledgement is enough. Whoever marks events
//     sent records, in the same transaction, which of the brokers that the
//     outbox knows did not acknowledge them, be it connected to those or not;
//     they are sent again to a broker that lacks any.
//  9. Cursors and sequence rows are never deleted.
//
// # Reading order
//
// event.go has the types that services see and envelope.go how they look on the
// wire. outbox.go publishes and relay.go sends, archive.go has sent again what is
// in doubt; listener.go takes messages from
// the broker, workers.go makes batches of them, turn.go applies a batch in one transaction, sweep.go
// makes the later attempts, package admin is what operators do. client.go keeps
// the sessions and puts the parts together, replicas.go is what the processes of
// a service tell each other, lead.go which of them does what one should. The tables are in migrations, the
// statements in statements.go, and what the databases spell differently in
// postgres.go and sqlite.go.
package event
