// Package framework runs a service, and is the place to start reading Turnstile: this comment is the tour.
//
// Turnstile is for services that keep their state in a database of their own and tell each other what happened by
// typed events. A service is a program of a few parts, put together in one function:
//
//	func main() { framework.Main("tickets", service.New) }
//
//	func New(s *framework.Service, cfg server.Config) error {
//		db, err := database.New(cfg.Database, event.Migrations(), store.Migrations())
//		if err != nil {
//			return err
//		}
//		brokers, err := broker.New(cfg.Broker, s.Log) // NATS Streaming, JetStream, or both
//		if err != nil {
//			return err
//		}
//		outbox := event.NewOutbox(db, s.Name, server.Publishes()...)
//		listener := event.NewListener(db, s.Name)
//		api := web.NewServer(s.Name, cfg.HTTP, s.Log, s.Tracer, s.Meter)
//
//		tickets := server.New(db, outbox) // what the service itself does
//		tickets.Routes(api.API())
//		tickets.Listen(listener)
//
//		telemetry := event.Telemetry{Log: s.Log, Tracer: s.Tracer, Meter: s.Meter}
//		s.Add("database", db)
//		s.Add("events", event.NewClient(cfg.Events, outbox, listener, telemetry, brokers...))
//		s.Add("http", api)
//		return nil
//	}
//
// # The one idea
//
// Message brokers deliver events more than once, out of order, or, after a crash, not at all. In Turnstile an event
// takes effect exactly once, and in order among the events of its key, because both ends keep count in their own
// database, in the transactions that they make anyway:
//
//   - Who publishes writes the event into an outbox, in the transaction that changes the state the event tells of,
//     and gives it the next number of its key: 1, 2, 3, … There is no way to publish outside a transaction, so
//     there is no event without its change and no change without its event.
//   - A relay sends what is in the outbox to the broker, again whenever it is in doubt.
//   - Who listens keeps a cursor for every key and advances it in the transaction of the handler's effects. What is
//     at or below the cursor is a duplicate and dropped; what is next is handled; what is later is parked until the
//     gap is closed.
//   - A handler that fails is called again, with growing pauses. Only the key of its event waits. What fails for
//     good becomes a dead letter that an operator can see, redrive or skip; it is never dropped silently.
//
// # What is guaranteed, and where it stops
//
// A change that is committed has its event delivered to every group of listeners, however often processes, brokers
// and networks fail on the way, as long as the databases keep what they committed. Restoring a database from a
// backup rewinds its counts: listeners notice, and report it as a fork, but cannot mend it.
//
// An effect is exactly once if it is made in the transaction that the handler is given. Everything else that a
// handler does, such as calling another system, happens at least once: give that system an idempotency key.
//
// Order is kept within a key. Between keys, and between the streams of different services, there is none.
//
// An event scheduled for a time is delivered not before that time, and after it as soon as the service runs.
//
// There are no exactly-once deliveries to something that does not keep a cursor, no transactions across services,
// and no events larger than the broker takes: those are refused when they are published, inside the transaction.
//
// # The packages, in the order in which to read them
//
//   - framework (this package): [Main] and [Run], [Service], [Part]. Configuration, logs, telemetry, probes, start
//     and stop. It imports none of the packages below: they satisfy the methods that Part names.
//   - framework/database: one database of the service's own, PostgreSQL or embedded SQLite. InTx is the only way to
//     write; migrations run at start. databasetest gives a test its own database.
//   - framework/event: Event, Outbox, Listener and Handle, the Client that runs them, and Broker, the seam to
//     brokers. The ledger, which is what the guarantees above rest on, is in here.
//   - framework/event/stan: a Broker on NATS Streaming.
//   - framework/event/eventtest: a Broker in memory that fails on request, and the conformance suite that every
//     Broker passes.
//   - framework/web: typed HTTP operations, errors as RFC 9457 problems, OpenAPI documents.
//   - framework/web/session: who is calling: sessions in signed tokens that auth issues and everybody verifies.
//   - framework/kube: what a service asks of Kubernetes: elections by Leases, settings from a ConfigMap, notices as
//     Events, and a stop that waits until no more work is sent.
//   - framework/servicetest: tests of a service, whole, on databases and a broker of the test's own.
//   - framework/secret: text that is never printed.
//   - framework/cmd/turnstile: the command line that runs all services of a workspace for development.
//
// Then read one service, services/tickets for example: its public package has its events, package service puts the
// parts together, internal/server has what it does.
//
// # The life of a service
//
// The program is called with one argument: run (the default), migrate, describe, check, version or help.
//
// Everything is configured by environment variables. All that are missing or wrong are reported at once, by name,
// before anything is opened, and the exit code is 2. `describe` prints as JSON all that the service takes, offers,
// publishes and listens to; it needs no configuration and opens nothing. `check` says what is wrong with the
// environment that it is called with, as run would, and opens nothing either.
//
// The admin server comes first, on ADMIN_ADDR, so that probes are answered from the first moment on:
//
//   - /livez is 200 as long as the process answers. It never depends on anything else.
//   - /startupz is 503 until the service has once been ready, and then 200 for ever.
//   - /readyz is 200 while the service can do its work, and 503 otherwise. Both name every check.
//   - /metrics is what is measured, in the Prometheus format; /debug/describe and /debug/pprof/ are for people,
//     and so are the pages that parts add (Debug), by which operators may change things.
//
// Then the parts are started, in the order in which they were added. One whose dependency is away is tried again
// until it succeeds. When all have been started all run, and when every check is fine the service is ready: it logs
// "service ready" with its addresses and writes READY_FILE. From then on a check may be degraded, if its part says
// so: without a broker, for example, a service still answers requests, and its outbox keeps the events.
//
// SIGTERM or SIGINT makes the service drain. /readyz answers 503 at once, while everything goes on being served: first
// until every part that has a method Drain says that no new work is sent to it (in Kubernetes, that the pod's address has
// left all EndpointSlices, or KUBE_DRAIN_LIMIT is over), and then until no request has come for DRAIN_DELAY, the time that
// load balancers take to notice, and for DRAIN_DELAY_MAX at most. Then the parts are stopped, the last one first: HTTP
// finishes its requests, listeners finish their handlers, the outbox is flushed, the database is closed.
// DRAIN_TIMEOUT bounds that last part; in Kubernetes KUBE_DRAIN_LIMIT, DRAIN_DELAY_MAX and DRAIN_TIMEOUT together, and 5.5 s
// for the last telemetry, must be below terminationGracePeriodSeconds. A second
// signal ends the process at once. A part that fails stops the others in the same way, without the delay, and the
// exit code is 1.
//
// # What is observed
//
// Logs are lines of JSON on standard output, or coloured text in a terminal (LOG_FORMAT), with trace_id and
// span_id. Traces and metrics are OpenTelemetry's; they are sent over OTLP/HTTP if OTEL_EXPORTER_OTLP_ENDPOINT is
// set, and the other standard OTEL_* variables apply. Without it nothing is recorded, but trace ids are made and
// passed on all the same. Providers are handed out by [Service]; nothing global is set.
package framework
