package event_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// contention is two services with two processes each, on databases of one
// server, over a broker that repeats, reorders and forgets. All work on a few
// keys: front publishes pings, back applies each and publishes a pong, which
// front applies.
type contention struct {
	broker  *eventtest.Broker
	dbs     map[string]*database.DB // to look into
	publish []func(ctx context.Context, value int) error
	stops   []func()
}

const contendedKeys = 4

// contend starts the processes. url returns the address of a service's
// database.
func contend(t *testing.T, url func(service string) string) *contention {
	t.Helper()
	c := &contention{
		broker: eventtest.NewBroker(eventtest.Faults{
			Seed: rand.Uint64(), LosePublishAck: 0.05, LoseAck: 0.05, Duplicate: 0.1, Reorder: 0.1, MaxDelay: 5 * time.Millisecond, Disconnect: 0.001,
		}),
		dbs: map[string]*database.DB{},
	}
	t.Cleanup(c.broker.Close)
	config := event.Config{
		Workers: 4, Batch: 10, AckWait: time.Second, DrainTimeout: 5 * time.Second,
		// A connection that is lost while a handler runs counts as its failure.
		Attempts: 1000, RetryFirst: 5 * time.Millisecond, RetryMost: 50 * time.Millisecond,
	}
	for _, service := range []string{"front", "back"} {
		for range 2 {
			db, err := database.New(database.Config{URL: url(service)}, event.Migrations(), effects())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			if err := db.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.dbs[service] = db
			l := event.NewListener(db, service)
			o := event.NewOutbox(db, service, ping{}, pong{})
			if service == "front" {
				event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[pong]) error {
					return record(ctx, tx, service, m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value)
				})
				c.publish = append(c.publish, func(ctx context.Context, value int) error {
					return db.InTx(ctx, func(tx *database.Tx) error {
						for _, k := range rand.Perm(contendedKeys)[:2] {
							if err := o.Publish(ctx, tx, ping{fmt.Sprint("k", k), value}); err != nil {
								return err
							}
						}
						return nil
					})
				})
			} else {
				event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[ping]) error {
					if err := record(ctx, tx, service, m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value); err != nil {
						return err
					}
					return o.Publish(ctx, tx, pong(m.Data))
				})
			}
			c.stops = append(c.stops, run(t, event.NewClient(config, o, l, event.Telemetry{}, c.broker)))
		}
	}
	return c
}

// load publishes from both processes of front while harm is done. What fails is
// published again, so it may be there twice.
func (c *contention) load(harm func()) {
	const each = 150
	var publishers sync.WaitGroup
	for p, publish := range c.publish {
		publishers.Go(func() {
			for n := range each {
				for publish(context.Background(), p*each+n) != nil {
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	harm()
	publishers.Wait()
}

// settle waits until everything published has taken effect, ends all processes
// and compares, event by event.
func (c *contention) settle(t *testing.T) {
	t.Helper()
	start := time.Now()
	c.broker.SetFaults(eventtest.Faults{})
	w := &world{dbs: c.dbs}
	why := ""
	defer func() {
		if t.Failed() {
			t.Log(why)
		}
	}()
	eventually(t, "quiet", func() (quiet bool) {
		quiet, why = w.quiet(t.Context())
		return quiet
	})
	settled := time.Since(start)
	for _, stop := range c.stops {
		stop()
	}
	w.problems = nil // on the way, a gap may have been reported that has closed
	w.compare(t.Context())
	for _, p := range w.problems {
		t.Error(p)
	}
	n := count(t.Context(), c.dbs["back"], "effect")
	if n < 600 {
		t.Errorf("%d effects, want 600 at least: two of each value", n)
	}
	t.Logf("%d events took effect, the last %v after they were published", n, settled.Round(time.Millisecond))
}

// Connections that are cut at random and a server that restarts without warning
// do not keep two replicas of two services from applying every event once and
// in order.
func TestReplicasWhileTheServerRestarts(t *testing.T) {
	t.Parallel()
	s := databasetest.PostgresServer(t)
	link := s.Link(t)
	for _, name := range []string{"front", "back"} {
		if err := s.CreateDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	c := contend(t, link.URL)
	c.load(func() {
		for n := range 12 {
			time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
			switch {
			case n == 6:
				if err := s.Restart(); err != nil {
					t.Error(err)
				}
			case n%3 == 0:
				link.CutAfter("commit")
			case n%3 == 1:
				link.CutBefore("commit")
			default:
				link.Cut()
			}
		}
	})
	c.settle(t)
}

// The same when the server is lost for good and its standby takes over.
func TestReplicasWhileTheStandbyTakesOver(t *testing.T) {
	t.Parallel()
	primary := databasetest.PostgresServer(t)
	for _, name := range []string{"front", "back"} {
		if err := primary.CreateDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	standby, err := primary.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Stop() })
	c := contend(t, func(service string) string { return primary.URL(service, standby) })
	c.load(func() {
		time.Sleep(300 * time.Millisecond)
		if err := primary.Kill(); err != nil {
			t.Error(err)
		}
		if err := standby.Promote(); err != nil {
			t.Error(err)
		}
	})
	c.settle(t)
}
