package event_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// inBubble runs a test in virtual time, in which a process can be away for an
// hour, with a database in memory.
func inBubble(t *testing.T, test func(t *testing.T, db *database.DB)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		db, err := database.New(database.Config{URL: "sqlite::memory:"}, event.Migrations(), effects())
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		test(t, db)
	})
}

func memory(t *testing.T) *eventtest.Broker {
	t.Helper()
	b := eventtest.NewBroker(eventtest.Faults{})
	t.Cleanup(b.Close)
	return b
}

// publishPings publishes one event of each value for the key "a".
func publishPings(t *testing.T, db *database.DB, o *event.Outbox, values ...int) {
	t.Helper()
	for _, v := range values {
		err := db.InTx(t.Context(), func(tx *database.Tx) error { return o.Publish(t.Context(), tx, ping{"a", v}) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// stored returns which values of the key "a" a broker has stored, each once.
func stored(t *testing.T, b *eventtest.Broker) (values []string) {
	t.Helper()
	for _, body := range b.Stored("pings") {
		_, rest, _ := strings.Cut(string(body), `"value":`)
		v, _, _ := strings.Cut(rest, "}")
		values = append(values, v)
	}
	slices.Sort(values)
	return slices.Compact(values)
}

// A broker that is away holds up nothing that another can carry, and gets what
// it missed when it is back, however long that takes.
func TestABrokerMayBeAway(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			inBubble(t, func(t *testing.T, db *database.DB) {
				one, two := memory(t), memory(t)
				brokers := []event.Broker{eventtest.Named("one", one), eventtest.Named("two", two)}
				o := event.NewOutbox(db, "front", ping{})
				c := event.NewClient(quick, o, recorder(db, nil), event.Telemetry{}, brokers...)
				stop := run(t, c)
				publishPings(t, db, o, 1)
				time.Sleep(time.Second)

				two.Down()
				publishPings(t, db, o, 2)
				time.Sleep(time.Hour)
				publishPings(t, db, o, 3)
				time.Sleep(time.Hour)
				if got := applied(t, db, "a"); !slices.Equal(got, upTo(3)) {
					t.Errorf("while one of two brokers is away, %v is applied", got)
				}
				if n := count(t.Context(), db, "event_outbox WHERE sent_at IS NULL"); n != 0 {
					t.Errorf("%d events wait in the outbox", n)
				}
				ready := c.Ready()
				if ready["broker one"] != nil || ready["broker two"] == nil || ready["subscription pings on two"] == nil {
					t.Errorf("the checks are %v", ready)
				}
				if restart {
					stop()
					o = event.NewOutbox(db, "front", ping{})
					run(t, event.NewClient(quick, o, recorder(db, nil), event.Telemetry{}, brokers...))
					time.Sleep(time.Hour)
				}
				two.Up()
				time.Sleep(10 * time.Second)
				if got := stored(t, two); !slices.Equal(got, []string{"1", "2", "3"}) {
					t.Errorf("the broker that was away has %v", got)
				}
				if got := applied(t, db, "a"); !slices.Equal(got, upTo(3)) {
					t.Errorf("%v is applied", got)
				}
			})
		})
	}
}

// A broker that takes messages and does not answer, or only now and then, keeps
// the other from nothing, and gets them all in the end.
func TestABrokerMayBeSilent(t *testing.T) {
	for _, share := range []float64{1, 0.5} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			inBubble(t, func(t *testing.T, db *database.DB) {
				good, silent := memory(t), memory(t)
				silent.SetFaults(eventtest.Faults{LosePublish: share})
				o := event.NewOutbox(db, "front", ping{})
				run(t, event.NewClient(quick, o, recorder(db, nil), event.Telemetry{}, eventtest.Named("good", good), eventtest.Named("silent", silent)))
				for i := range 10 {
					err := db.InTx(t.Context(), func(tx *database.Tx) error {
						return errors.Join(o.Publish(t.Context(), tx, ping{"a", 2*i + 1}), o.Publish(t.Context(), tx, ping{"a", 2*i + 2}))
					})
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
				}
				if got := applied(t, db, "a"); !slices.Equal(got, upTo(20)) {
					t.Errorf("%v is applied", got)
				}
				// It is tried again and again, but less and less often.
				if n := len(good.Stored("pings")); n > 500 {
					t.Errorf("20 events were sent %d times for the sake of the broker that takes few", n)
				}
				silent.SetFaults(eventtest.Faults{})
				time.Sleep(2 * time.Minute)
				if got := len(stored(t, silent)); got != 20 {
					t.Errorf("once it takes all messages it has %d of 20", got)
				}
			})
		})
	}
}

// A connection that breaks again and again has what it put in doubt sent again
// now and then, not each time: else every loss would have all sent again that
// the ones before it did.
func TestAConnectionThatKeepsBreaking(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		b := memory(t)
		o := event.NewOutbox(db, "front", ping{})
		run(t, event.NewClient(quick, o, recorder(db, nil), event.Telemetry{}, b))
		const events = 300
		for i := range events {
			publishPings(t, db, o, i+1)
			time.Sleep(time.Second)
			if i%5 == 0 {
				b.Disconnect()
			}
		}
		time.Sleep(time.Minute)
		if got := applied(t, db, "a"); !slices.Equal(got, upTo(events)) {
			t.Errorf("%d events are applied", len(got))
		}
		if n := len(b.Stored("pings")); n > 10*events {
			t.Errorf("%d events were sent %d times", events, n)
		}
		if n := count(t.Context(), db, "event_broker WHERE missing_since IS NOT NULL"); n != 0 {
			t.Error("what the last loss put in doubt is not sent again")
		}
	})
}

// A broker that comes back is used at once, however much there is to send over
// another.
func TestABrokerJoinsInTheMiddleOfABacklog(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		one, two := memory(t), memory(t)
		one.SetFaults(eventtest.Faults{MaxDelay: time.Minute}) // for each batch
		two.Down()
		o := event.NewOutbox(db, "front", ping{})
		var backlog []event.Event
		for value := range 5000 {
			backlog = append(backlog, ping{"a", value + 1})
		}
		publish(t, db, o, backlog...)
		c := event.NewClient(quick, o, nil, event.Telemetry{}, eventtest.Named("one", one), eventtest.Named("two", two))
		run(t, c)
		time.Sleep(30 * time.Second)
		two.Up()
		time.Sleep(2 * time.Minute)
		if err := c.Ready()["broker two"]; err != nil {
			t.Errorf("two minutes after it is back: %v", err)
		}
		if n := count(t.Context(), db, "event_outbox WHERE sent_at IS NULL"); n == 0 {
			t.Error("there was no backlog to wait for")
		}
		time.Sleep(time.Hour)
		if n := len(stored(t, two)); n != len(backlog) {
			t.Errorf("it has %d events", n)
		}
	})
}

// In the middle of a move some processes know only the former broker. What they
// send reaches the other as well: a process that uses it sees to that.
func TestAProcessThatDoesNotUseABroker(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		former, latter := memory(t), memory(t)
		// The latter's process learns of it first and then cannot send.
		newer := event.NewOutbox(db, "front", ping{})
		run(t, event.NewClient(quick, newer, nil, event.Telemetry{}, eventtest.Named("latter", latter)))
		time.Sleep(time.Second)
		latter.Down()
		older := event.NewOutbox(db, "front", ping{})
		stop := run(t, event.NewClient(quick, older, nil, event.Telemetry{}, eventtest.Named("former", former)))
		publishPings(t, db, older, 1, 2)
		time.Sleep(time.Hour)
		publishPings(t, db, older, 3)
		time.Sleep(time.Hour)
		if got := stored(t, former); !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Fatalf("the former broker has %v", got)
		}
		stop()
		latter.Up()
		time.Sleep(time.Minute)
		if got := stored(t, latter); !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Errorf("the latter broker has %v", got)
		}
		if n := count(t.Context(), db, "event_broker WHERE broker = 'latter' AND missing_since IS NOT NULL"); n != 0 {
			t.Error("it still counts as missing something")
		}
		if n := count(t.Context(), db, "event_broker WHERE broker = 'former' AND missing_since IS NOT NULL"); n != 1 {
			t.Error("the former broker, which nobody uses any more, counts as complete")
		}
	})
}

// What a broker misses counts from the earliest mark, also where that is written
// last: processes have clocks of their own, and take turns at the broker's row.
func TestMarksOutOfOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		former, latter := eventtest.Named("former", memory(t)), memory(t)
		// Another process, whose clock is ahead, has noted that the latter is away.
		ahead := time.Now().Add(5 * time.Second)
		err := db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.ExecContext(t.Context(), "INSERT INTO event_broker (broker, since, missing_since) VALUES ('latter', $1, $2)",
				time.Now().Add(-time.Hour).UnixMicro(), ahead.UnixMicro())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		o := event.NewOutbox(db, "front", ping{})
		run(t, event.NewClient(quick, o, nil, event.Telemetry{}, former))
		publishPings(t, db, o, 1)
		time.Sleep(time.Hour)
		publishPings(t, db, o, 2)
		time.Sleep(time.Second)
		run(t, event.NewClient(quick, event.NewOutbox(db, "front"), nil, event.Telemetry{}, former, eventtest.Named("latter", latter)))
		time.Sleep(time.Minute)
		if got := stored(t, latter); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("the latter broker has %v", got)
		}
	})
}

// A database that another replaced, or that was restored, may know of no broker
// that is connected to: it is told.
func TestABrokerThatTheDatabaseForgot(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		b := memory(t)
		o := event.NewOutbox(db, "front", ping{})
		run(t, event.NewClient(quick, o, recorder(db, nil), event.Telemetry{}, b))
		publishPings(t, db, o, 1)
		time.Sleep(time.Minute)
		err := db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.ExecContext(t.Context(), "DELETE FROM event_broker")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		publishPings(t, db, o, 2)
		time.Sleep(time.Minute)
		if got := applied(t, db, "a"); !slices.Equal(got, upTo(2)) {
			t.Errorf("%v is applied", got)
		}
		if n := count(t.Context(), db, "event_broker WHERE missing_since IS NULL"); n != 1 {
			t.Error("the database does not know the broker")
		}
	})
}

// Marks that fail, as on a disk that is full, are tried again less and less often.
func TestMarksThatFail(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		b := memory(t)
		var text strings.Builder
		var mu sync.Mutex
		log := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return text.Write(p)
		}), nil))
		o := event.NewOutbox(db, "front", ping{})
		run(t, event.NewClient(quick, o, recorder(db, nil), event.Telemetry{Log: log}, b))
		publishPings(t, db, o, 1)
		time.Sleep(time.Minute)
		change := func(statement string) {
			err := db.InTx(t.Context(), func(tx *database.Tx) error {
				_, err := tx.ExecContext(t.Context(), statement)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		change("CREATE UNIQUE INDEX full ON event_outbox ((sent_at IS NULL))") // no second event may be marked
		publishPings(t, db, o, 2)
		time.Sleep(time.Minute)
		mu.Lock()
		if n := strings.Count(text.String(), "not marked"); n == 0 || n > 60 {
			t.Errorf("within a minute it was tried %d times", n)
		}
		mu.Unlock()
		change("DROP INDEX full")
		time.Sleep(5 * time.Second)
		if n := count(t.Context(), db, "event_outbox WHERE sent_at IS NULL"); n != 0 {
			t.Error("it is not marked in the end")
		}
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// Going back finds the former broker with what was sent in its absence.
func TestAMoveCanBeUndone(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		old := memory(t)
		former, latter := eventtest.Named("former", old), eventtest.Named("latter", memory(t))
		value := 0
		for _, brokers := range [][]event.Broker{{former}, {former, latter}, {latter}, {former, latter}, {former}} {
			o := event.NewOutbox(db, "front", ping{})
			stop := run(t, event.NewClient(quick, o, recorder(db, nil), event.Telemetry{}, brokers...))
			for range 3 {
				value++
				publishPings(t, db, o, value)
				time.Sleep(2 * time.Minute)
			}
			stop()
			time.Sleep(2 * time.Minute)
		}
		if got := applied(t, db, "a"); !slices.Equal(got, upTo(int64(value))) {
			t.Errorf("%v is applied of %d", got, value)
		}
		if got := stored(t, old); len(got) != value {
			t.Errorf("the former broker has %d of %d", len(got), value)
		}
	})
}

// Each process says that it is there, which brokers it uses, and that it ends.
func TestProcessesAreKnown(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		one, two := eventtest.Named("one", memory(t)), eventtest.Named("two", memory(t))
		stopOne := run(t, event.NewClient(quick, event.NewOutbox(db, "front"), nil, event.Telemetry{}, one))
		stopTwo := run(t, event.NewClient(quick, event.NewOutbox(db, "front"), nil, event.Telemetry{}, two, one))
		time.Sleep(time.Hour)
		known := func(brokers string) int {
			return count(t.Context(), db, fmt.Sprintf("event_process WHERE brokers = '%s' AND seen_at > %d", brokers, time.Now().Add(-time.Minute).UnixMicro()))
		}
		if known("one") != 1 || known("one+two") != 1 {
			t.Errorf("%d processes use one broker and %d both", known("one"), known("one+two"))
		}
		stopOne()
		if known("one") != 0 || known("one+two") != 1 {
			t.Errorf("after one has ended: %d and %d", known("one"), known("one+two"))
		}
		stopTwo()
	})
}

// What the archive has kept for long enough is removed, also when one of the
// processes that could do so has stopped. That one does so at a time where there
// may be several, the tests of Lead show.
func TestPrune(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		b := memory(t)
		config := quick
		config.Archive = 24 * time.Minute
		outboxes := []*event.Outbox{event.NewOutbox(db, "front", ping{}), event.NewOutbox(db, "front", ping{})}
		stops := []func(){}
		for _, o := range outboxes {
			stops = append(stops, run(t, event.NewClient(config, o, nil, event.Telemetry{}, b)))
		}
		publishPings(t, db, outboxes[0], 1)
		time.Sleep(12 * time.Minute)
		publishPings(t, db, outboxes[0], 2)
		time.Sleep(11 * time.Minute)
		if n := count(t.Context(), db, "event_outbox"); n != 2 {
			t.Errorf("after 23 minutes %d events are kept", n)
		}
		time.Sleep(3 * time.Minute)
		if n := count(t.Context(), db, "event_outbox"); n != 1 {
			t.Errorf("after 26 minutes %d events are kept", n)
		}
		stops[0]()
		time.Sleep(12 * time.Minute)
		if n := count(t.Context(), db, "event_outbox"); n != 0 {
			t.Errorf("after 38 minutes %d events are kept", n)
		}
		stops[1]()
		if n := count(t.Context(), db, "event_sequence"); n != 1 {
			t.Errorf("the key's number is forgotten, too")
		}
	})
}

// A broker that nobody has used for longer than the archive reaches is forgotten;
// one that is merely away for so long is not.
func TestABrokerThatNobodyUsesIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		config := quick
		config.Archive = 10 * time.Minute
		away := memory(t)
		one, two, three := eventtest.Named("one", memory(t)), eventtest.Named("two", away), eventtest.Named("three", memory(t))
		for _, brokers := range [][]event.Broker{{one, two, three}, {two, three}} {
			o := event.NewOutbox(db, "front", ping{})
			stop := run(t, event.NewClient(config, o, nil, event.Telemetry{}, brokers...))
			time.Sleep(time.Minute)
			away.Down()
			publishPings(t, db, o, 1)
			time.Sleep(20 * time.Minute)
			stop()
		}
		known, err := database.QueryAll(t.Context(), db, func(row database.Row) (name string, err error) {
			err = row.Scan(&name)
			return name, err
		}, "SELECT broker FROM event_broker ORDER BY broker")
		if want := []string{"three", "two"}; err != nil || !slices.Equal(known, want) {
			t.Errorf("known are %v, want %v (%v)", known, want, err)
		}
	})
}

// An event that this process cannot send is sent by another at once: it is
// called, and need not look.
func TestOtherReplicasAreCalled(t *testing.T) {
	db := databasetest.Postgres(t, event.Migrations(), effects())
	cut, connected := &hand{refuse: errors.New("unplugged")}, &hand{answers: true}
	o := event.NewOutbox(db, "front", ping{})
	run(t, event.NewClient(quick, o, nil, event.Telemetry{}, cut))
	run(t, event.NewClient(quick, event.NewOutbox(db, "front", ping{}), nil, event.Telemetry{}, connected))
	eventually(t, "a session", func() bool { return connected.current() != nil })
	var took []time.Duration
	for i := range 9 {
		start := time.Now()
		err := db.InTx(t.Context(), func(tx *database.Tx) error {
			return o.Publish(t.Context(), tx, ping{fmt.Sprint(i), i})
		})
		if err != nil {
			t.Fatal(err)
		}
		receive(t, connected.current().published, "the event at the other replica")
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 300*time.Millisecond {
		t.Errorf("it took the other replica %v, in the median, to send: it seems to look every second", median)
	}
}

// A client without a broker, or with two of one name, is a mistake that shows
// at the start.
func TestBrokersHaveNames(t *testing.T) {
	db := databasetest.SQLite(t, event.Migrations())
	for what, brokers := range map[string][]event.Broker{"a client needs a broker": {}, "two brokers have the name hand": {&hand{}, &hand{}}} {
		func() {
			defer func() {
				if r := fmt.Sprint(recover()); !strings.Contains(r, what) {
					t.Errorf("it says %q, want %q", r, what)
				}
			}()
			event.NewClient(event.Config{}, event.NewOutbox(db, "front"), nil, event.Telemetry{}, brokers...)
		}()
	}
}

// A failed attempt is kept for people to see, also after a later one went well.
func TestFailedAttemptsAreKept(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{answers: true}
		failures := 3 // the first event of a batch that fails is tried again by itself, which counts no attempt
		run(t, event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, func(*event.Message[ping]) error {
			if failures--; failures >= 0 {
				return fmt.Errorf("no luck %d", failures)
			}
			return nil
		}), event.Telemetry{}, b))
		b.deliver(t, "pings", message{key: "a", seq: 1}.body(), false)
		eventually(t, "the effect", func() bool { return len(applied(t, db, "a")) == 1 })
		kept, err := database.QueryAll(context.Background(), db, func(row database.Row) (s string, err error) {
			var attempt int
			var text string
			err = row.Scan(&attempt, &text)
			_, text, _ = strings.Cut(text, "no luck")
			return fmt.Sprint(attempt, text), err
		}, "SELECT attempt, error FROM event_attempt WHERE stream = 'pings' AND key = 'a' AND seq = 1 ORDER BY attempt")
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"1 1", "2 0"}; !slices.Equal(kept, want) {
			t.Errorf("kept %q, want %q", kept, want)
		}
	})
}
