package event_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// Two turns that lock the same cursors do so in one order, whatever the order
// of their events, of the table and of the plan: otherwise they deadlock.
func TestCursorsAreLockedInOrder(t *testing.T) {
	// Left alone the planner takes so few in the order in which they are given,
	// which is sorted as well.
	plan := "&options=-c%20enable_nestloop%3Doff%20-c%20enable_mergejoin%3Doff"
	url := databasetest.PostgresURL(t) + plan
	db, _ := openSpied(t, url)
	b := &hand{}
	config := quick
	config.Workers = 1
	entered, proceed := make(chan struct{}, 10), make(chan struct{}, 10)
	l := event.NewListener(db, "back")
	event.Handle(l, func(_ context.Context, _ *database.Tx, m *event.Message[ping]) error {
		if m.Key == "hold" {
			entered <- struct{}{}
			<-proceed
		}
		return nil
	})
	run(t, event.NewClient(config, event.NewOutbox(db, "back"), l, event.Telemetry{}, b))
	keys := []string{"z", "y", "m", "b", "a"}
	// batch has the worker take all keys in one turn, and returns when the turn
	// waits for the rival.
	batch := func(seq int) (acked []chan struct{}) {
		t.Helper()
		b.deliver(t, "pings", message{key: "hold", seq: seq}.body(), false)
		receive(t, entered, "the worker")
		for _, k := range keys {
			acked = append(acked, b.deliver(t, "pings", message{key: k, seq: seq}.body(), false))
		}
		proceed <- struct{}{}
		waiting(t, db, 1)
		return acked
	}
	rest := func(letGo func(), acked []chan struct{}) {
		t.Helper()
		letGo()
		for _, a := range acked {
			receive(t, a, "an acknowledgement")
		}
	}

	// New cursors: the rival is about to make that of m. Those after it are not
	// made yet, so that others can.
	letGo := rival(t, url, "INSERT INTO event_cursor (grp, stream, key) VALUES ('back', 'pings', 'm')")
	acked := batch(1)
	other := rival(t, url, "SET LOCAL lock_timeout = '5s'; INSERT INTO event_cursor (grp, stream, key) VALUES ('back', 'pings', 'y'), ('back', 'pings', 'z')")
	other()
	rest(letGo, acked)

	// The same for cursors that are there, and lie in the table in the opposite
	// order.
	reverse(t, db)
	letGo = rival(t, url, "SELECT FROM event_cursor WHERE key = 'm' FOR UPDATE")
	acked = batch(2)
	if got := freeCursors(t, db); !slices.Equal(got, []string{"y", "z"}) {
		t.Errorf("while a turn waits for m, %v are free; want those after it", got)
	}
	rest(letGo, acked)
}

// reverse has the cursors lie in the table from the last key to the first, with
// so many others that it is read from the beginning to the end.
func reverse(t *testing.T, db *database.DB) {
	t.Helper()
	if err := db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, statement := range []string{
			"CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM event_cursor", "TRUNCATE event_cursor",
			"INSERT INTO event_cursor SELECT * FROM kept ORDER BY key DESC",
			"INSERT INTO event_cursor (grp, stream, key) SELECT 'back', 'pings', 'other ' || n FROM generate_series(1, 2000) n", "ANALYZE event_cursor",
		} {
			if _, err := tx.ExecContext(t.Context(), statement); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func freeCursors(t *testing.T, db *database.DB) []string {
	t.Helper()
	keys := free(t, db, "SELECT key FROM event_cursor WHERE key IN ('a', 'b', 'm', 'y', 'z') FOR UPDATE SKIP LOCKED")
	slices.Sort(keys)
	return keys
}

// The due step takes a key's sequence row before its scheduled rows: while
// somebody else is numbering events of the key, it holds none of them.
func TestDueStepLocksTheKeyFirst(t *testing.T) {
	url := databasetest.PostgresURL(t)
	db, _ := openSpied(t, url)
	o := event.NewOutbox(db, "front", ping{})
	publish(t, db, o, ping{"a", 1})
	letGo := rival(t, url, "SELECT FROM event_sequence WHERE key = 'a' FOR UPDATE")
	if err := db.InTx(t.Context(), func(tx *database.Tx) error {
		return o.Publish(t.Context(), tx, ping{"a", 2}, event.At(time.Now()))
	}); err != nil {
		t.Fatal(err)
	}
	run(t, event.NewClient(quick, o, nil, event.Telemetry{}, &hand{answers: true}))
	waiting(t, db, 1)
	if got := free(t, db, "SELECT key FROM event_scheduled FOR UPDATE SKIP LOCKED"); !slices.Equal(got, []string{"a"}) {
		t.Errorf("while the due step waits for the key, the scheduled events of %v are free; want a's", got)
	}
	letGo()
	eventually(t, "the scheduled event", func() bool { return fmt.Sprint(numbers(t, db, "a")) == "[1:1 2:2]" })
}

// What is due is numbered by due time, however many processes see to it.
func TestDueEventsOfSeveralProcesses(t *testing.T) {
	url := databasetest.PostgresURL(t)
	db, _ := openSpied(t, url)
	outboxes := []*event.Outbox{event.NewOutbox(db, "front", ping{})}
	for range 3 {
		other, _ := openSpied(t, url)
		outboxes = append(outboxes, event.NewOutbox(other, "front", ping{}))
	}
	const each = 100
	start := time.Now().Add(50 * time.Millisecond)
	if err := db.InTx(t.Context(), func(tx *database.Tx) error {
		for value := range each {
			for _, key := range []string{"a", "b", "c"} {
				if err := outboxes[0].Publish(t.Context(), tx, ping{key, value}, event.At(start.Add(time.Duration(value)*3*time.Millisecond))); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, o := range outboxes {
		run(t, event.NewClient(quick, o, nil, event.Telemetry{}, &hand{answers: true}))
	}
	var want []string
	for value := range each {
		want = append(want, fmt.Sprintf("%d:%d", value+1, value))
	}
	for _, key := range []string{"a", "b", "c"} {
		eventually(t, "all events of "+key, func() bool { return len(numbers(t, db, key)) == each })
		if got := numbers(t, db, key); !slices.Equal(got, want) {
			t.Errorf("%s has %v", key, got)
		}
	}
}

// Somebody who skips an event while somebody else redrives it and it succeeds:
// one of them finds that he was too late, and the cursor never goes back.
func TestOperatorsHoldTheCursor(t *testing.T) {
	for what, at := range map[string]string{"skip": "SELECT state, body FROM event_parked", "redrive": "UPDATE event_parked SET state = 'retry'"} {
		t.Run(what, func(t *testing.T) {
			url := databasetest.PostgresURL(t)
			db, log := openLogged(t, url)
			quiet, _ := openSpied(t, url) // not logged
			b := &hand{}
			var alive atomic.Bool
			run(t, event.NewClient(quick, event.NewOutbox(quiet, "back"), recorder(quiet, func(*event.Message[ping]) error {
				if alive.Load() {
					return nil
				}
				return event.Dead(errors.New("poison"))
			}), event.Telemetry{}, b))
			for seq := 1; seq <= 3; seq++ {
				receive(t, b.deliver(t, "pings", message{key: "a", seq: seq}.body(), false), "an acknowledgement")
			}
			letter := awaitLetter(t, quiet, "dead")
			alive.Store(true)

			slow, fast := admin.New("back", db), admin.New("back", quiet)
			first, second := slow.Skip, fast.Redrive
			if what == "redrive" {
				first, second = slow.Redrive, fast.Skip
			}
			other := make(chan error, 1)
			log.callBefore(at, func() {
				go func() { other <- second(context.Background(), letter) }()
				// The other waits for the first, or else has its way at once,
				// and so has the listener.
				eventually(t, "the other operator", func() bool {
					return count(t.Context(), quiet, "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") > 0 ||
						count(t.Context(), quiet, "event_cursor WHERE seq = 3") > 0
				})
			})
			firstErr := first(t.Context(), letter)
			secondErr := receive(t, other, "the other operator's answer")
			eventually(t, "the rest", func() bool { return count(t.Context(), quiet, "event_cursor WHERE seq = 3 AND parked = 0") == 1 })
			if firstErr != nil || secondErr == nil {
				t.Errorf("the first operator is told %v and the second %v; want the first to succeed and the second not to", firstErr, secondErr)
			}
			want := map[string][]int64{"skip": {2, 3}, "redrive": {1, 2, 3}}[what]
			if got := applied(t, quiet, "a"); !slices.Equal(got, want) {
				t.Errorf("applied %v, want %v", got, want)
			}
		})
	}
}

// A process that stands still in the middle of a turn, or is gone without a
// word, holds its cursors only until the server has enough of it. When it wakes
// up it finds its work done.
func TestProcessThatStandsStill(t *testing.T) {
	url := databasetest.PostgresURL(t)
	still, _ := openSpied(t, url+"&idle_in_transaction_session_timeout=300ms")
	well, _ := openSpied(t, url)
	entered, proceed := make(chan struct{}), make(chan struct{})
	standing := &hand{}
	first := true
	run(t, event.NewClient(quick, event.NewOutbox(still, "back"), recorder(still, func(*event.Message[ping]) error {
		if first {
			first = false
			close(entered)
			<-proceed
		}
		return nil
	}), event.Telemetry{}, standing))
	working := &hand{}
	run(t, event.NewClient(quick, event.NewOutbox(well, "back"), recorder(well, nil), event.Telemetry{}, working))

	one := standing.deliver(t, "pings", message{key: "a", seq: 1}.body(), false)
	receive(t, entered, "the handler")
	receive(t, working.deliver(t, "pings", message{key: "a", seq: 1}.body(), false), "an acknowledgement by the other process")
	receive(t, working.deliver(t, "pings", message{key: "a", seq: 2}.body(), false), "an acknowledgement by the other process")
	close(proceed)
	receive(t, one, "an acknowledgement by the process that stood still")
	if got := applied(t, well, "a"); !slices.Equal(got, upTo(2)) {
		t.Errorf("applied %v", got)
	}
	if got := letters(t, well); len(got) != 0 {
		t.Errorf("letters %v", got)
	}
}

// A turn, a batch of the relay and a commit are a handful of statements each,
// however many events and keys they concern.
func TestStatementsOfATransaction(t *testing.T) {
	url := databasetest.PostgresURL(t)
	db, log := openLogged(t, url)
	o := event.NewOutbox(db, "back", ping{})
	entered, proceed := make(chan struct{}), make(chan struct{})
	l := event.NewListener(db, "back")
	event.Handle(l, func(_ context.Context, _ *database.Tx, m *event.Message[ping]) error {
		if m.Key == "hold" {
			entered <- struct{}{}
			<-proceed
		}
		return nil
	})
	config := quick
	config.Workers, config.Batch = 1, 1000
	b := &hand{answers: true}
	run(t, event.NewClient(config, o, l, event.Telemetry{}, b))
	turn := func(round int, messages ...message) (statements []string) {
		t.Helper()
		b.deliver(t, "pings", message{key: "hold", seq: round}.body(), false)
		receive(t, entered, "the worker")
		var acked []chan struct{}
		for _, m := range messages {
			acked = append(acked, b.deliver(t, "pings", m.body(), false))
		}
		proceed <- struct{}{}
		for _, a := range acked {
			receive(t, a, "an acknowledgement")
		}
		return log.last("INSERT INTO event_cursor")
	}
	round := 0
	for _, n := range []int{1, 10, 100} {
		var events []event.Event
		var straight, early, late []message
		for i := range n {
			key := fmt.Sprint("key ", n, " ", i)
			events = append(events, ping{key, 1})
			straight = append(straight, message{key: key, seq: 1}, message{key: key, seq: 2})
			early = append(early, message{key: key, seq: 4})
			late = append(late, message{key: key, seq: 3})
		}
		publish(t, db, o, events...)
		eventually(t, "the marks", func() bool { return count(t.Context(), db, "event_outbox WHERE sent_at IS NULL") == 0 })
		rounds := map[string][]string{"a commit": log.last("INSERT INTO event_sequence"), "a batch of the relay": log.last("SET sent_at")}
		for i, messages := range [][]message{straight, early, late} {
			round++
			rounds[[]string{"a turn", "a turn that parks", "a turn that releases"}[i]] = turn(round, messages...)
		}
		for what, want := range map[string]int{
			"a commit": 2, "a batch of the relay": 3,
			"a turn": 3, "a turn that parks": 4, "a turn that releases": 6,
		} {
			if got := rounds[what]; len(got) != want {
				t.Errorf("%s of %d keys has %d statements, want %d:\n%s", what, n, len(got), want, strings.Join(got, "\n"))
			}
		}
	}
}
