package brokertest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
)

// CommitToEffect measures, event by event, the time from the commit of an event
// in one service's database to the commit of its effect in another's, and beside
// it, in turn, the time from a raw publish on the same server to its arrival, and
// to the commit of a row that the receiver writes: what a service does that has
// no ledger. All databases are SQLite files that sync.
//
// newBroker returns a broker for a client of that name. raw publishes to a group
// that is already listening and waits for the server's acknowledgement; what
// arrives there is told to arrived.
func CommitToEffect(b *testing.B, newBroker func(id string) event.Broker, raw func(body []byte) error, arrived <-chan time.Time) {
	bare := databasetest.SQLite(b, event.Migrations())
	from, to := databasetest.SQLite(b, event.Migrations()), databasetest.SQLite(b, event.Migrations())
	outbox := event.NewOutbox(from, "from", opened{})
	listener := event.NewListener(to, "to")
	effects := make(chan time.Time, 1)
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[opened]) error {
		tx.AfterCommit(func() { effects <- time.Now() })
		return nil
	})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 2)
	run := func(name string, o *event.Outbox, l *event.Listener) {
		client := event.NewClient(event.Config{}, o, l, event.Telemetry{}, newBroker(name))
		go func() { done <- client.Run(ctx) }()
	}
	run("from", outbox, nil)
	run("to", event.NewOutbox(to, "to"), listener)
	defer func() {
		cancel()
		<-done
		<-done
	}()

	publish := func() time.Time {
		var committed time.Time
		if err := from.InTx(ctx, func(tx *database.Tx) error {
			tx.AfterCommit(func() { committed = time.Now() })
			return outbox.Publish(ctx, tx, opened{"door"})
		}); err != nil {
			b.Fatal(err)
		}
		return committed
	}
	publish()
	<-effects // both sides are connected

	var rawTimes, bareTimes, effectTimes []time.Duration
	for b.Loop() {
		start := time.Now()
		if err := raw(make([]byte, 300)); err != nil {
			b.Fatal(err)
		}
		rawTimes = append(rawTimes, (<-arrived).Sub(start))
		if err := bare.InTx(ctx, func(tx *database.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO event_journal (grp, stream, key, seq, event_id, type, applied_at) VALUES ('', '', '', 0, '', '', 0)")
			return err
		}); err != nil {
			b.Fatal(err)
		}
		bareTimes = append(bareTimes, time.Since(start))
		committed := publish()
		effectTimes = append(effectTimes, (<-effects).Sub(committed))
	}
	at := func(times []time.Duration, q float64) float64 {
		slices.Sort(times)
		return float64(times[int(q*float64(len(times)-1))].Microseconds())
	}
	b.ReportMetric(0, "ns/op")
	for name, q := range map[string]float64{"p50": 0.5, "p99": 0.99} {
		b.ReportMetric(at(rawTimes, q), "raw-"+name+"-µs")
		b.ReportMetric(at(bareTimes, q), "bare-"+name+"-µs")
		b.ReportMetric(at(effectTimes, q), "effect-"+name+"-µs")
	}
	b.ReportMetric(at(effectTimes, 0.5)/at(rawTimes, 0.5), "effect/raw-p50")
	b.ReportMetric(at(effectTimes, 0.5)/at(bareTimes, 0.5), "effect/bare-p50")
}
