package event_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// marked returns the values of the events that are marked sent, in order.
func marked(t *testing.T, db *database.DB) []int {
	t.Helper()
	values, err := database.QueryAll(t.Context(), db, func(row database.Row) (value int, err error) {
		err = row.Scan(&value)
		return value, err
	}, "SELECT seq FROM event_outbox WHERE sent_at IS NOT NULL ORDER BY seq")
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// Of a batch, the relay marks those events that were acknowledged, and sends
// the others again.
func TestRelayMarksWhatIsAcknowledged(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		o := event.NewOutbox(db, "front", ping{})
		b := &hand{}
		run(t, event.NewClient(quick, o, nil, event.Telemetry{}, b))
		eventually(t, "a session", func() bool { return b.current() != nil })
		s := b.current()
		const events = 10
		var batch []event.Event
		for value := range events {
			batch = append(batch, ping{"a", value + 1})
		}
		publish(t, db, o, batch...)
		var sent []published
		for range events {
			sent = append(sent, receive(t, s.published, "a publish"))
		}
		if got := marked(t, db); len(got) != 0 {
			t.Errorf("%v are marked before the broker has answered", got)
		}
		var want []int
		var refused []string
		for i, p := range sent {
			if i%3 == 0 {
				want = append(want, i+1)
				p.answer(nil)
			} else {
				refused = append(refused, string(p.body))
				p.answer(errors.New("no room"))
			}
		}
		var again []string
		var answers []func(error)
		for range refused {
			p := receive(t, s.published, "what was refused, again")
			again, answers = append(again, string(p.body)), append(answers, p.answer)
		}
		if !slices.Equal(again, refused) {
			t.Errorf("sent again %v, want %v", again, refused)
		}
		eventually(t, "the marks", func() bool { return len(marked(t, db)) >= len(want) })
		if got := marked(t, db); !slices.Equal(got, want) {
			t.Errorf("%v are marked, want %v", got, want)
		}
		for _, answer := range answers {
			answer(nil)
		}
		eventually(t, "all marks", func() bool { return len(marked(t, db)) == events })
	})
}

// Relays of several processes share the work: what one has on its way to a slow
// broker another passes by.
func TestRelaysShareTheWork(t *testing.T) {
	url := databasetest.PostgresURL(t)
	db, _ := openSpied(t, url)
	other, _ := openSpied(t, url)
	o := event.NewOutbox(db, "front", ping{})
	const full, more = 500, 120 // a relay's batch, and what is left of the outbox
	var events []event.Event
	for value := range full + more {
		events = append(events, ping{fmt.Sprint(value), value})
	}
	publish(t, db, o, events...)

	slow, fast := &hand{}, &hand{answers: true}
	run(t, event.NewClient(quick, o, nil, event.Telemetry{}, slow))
	eventually(t, "the first session", func() bool { return slow.current() != nil })
	seen := map[string]int{}
	var answers []func(error)
	for range full {
		p := receive(t, slow.current().published, "an event at the first relay")
		seen[string(p.body)]++
		answers = append(answers, p.answer)
	}
	run(t, event.NewClient(quick, event.NewOutbox(other, "front", ping{}), nil, event.Telemetry{}, fast))
	eventually(t, "the second session", func() bool { return fast.current() != nil })
	take := func(n int) {
		t.Helper()
		for range n {
			seen[string(receive(t, fast.current().published, "an event at the second relay").body)]++
		}
	}
	take(more)
	eventually(t, "the marks of the second", func() bool { return count(t.Context(), db, "event_outbox WHERE sent_at IS NULL") == full })
	publish(t, db, o, ping{"late", full + more})
	take(1)
	for _, answer := range answers {
		answer(nil)
	}
	eventually(t, "all marks", func() bool { return count(t.Context(), db, "event_outbox WHERE sent_at IS NULL") == 0 })
	for body, n := range seen {
		if n > 1 {
			t.Errorf("sent by both: %s", body)
		}
	}
	if len(seen) != full+more+1 {
		t.Errorf("%d events were sent, want %d", len(seen), full+more+1)
	}
	if n := len(slow.current().published) + len(fast.current().published); n != 0 {
		t.Errorf("%d were sent twice", n)
	}
}

// While one process has sent again what a broker missed, another marks an event
// that this broker does not get either: it is not forgotten over that.
func TestMissedEventsAreNotForgotten(t *testing.T) {
	url := databasetest.PostgresURL(t)
	db, _ := openSpied(t, url)
	repairing, log := openLogged(t, url)
	o := event.NewOutbox(db, "front", ping{})
	one, two := &hand{answers: true}, &hand{answers: true}
	run(t, event.NewClient(quick, o, nil, event.Telemetry{}, eventtest.Named("one", one)))
	run(t, event.NewClient(quick, event.NewOutbox(repairing, "front", ping{}), nil, event.Telemetry{}, eventtest.Named("two", two)))
	eventually(t, "both sessions", func() bool { return one.current() != nil && two.current() != nil })
	eventually(t, "both brokers on record", func() bool { return count(t.Context(), db, "event_broker WHERE missing_since IS NULL") == 2 })

	repaired := make(chan struct{})
	log.callBefore("UPDATE event_broker SET missing_since = NULL", func() {
		defer close(repaired)
		publish(t, db, o, ping{"late", 1})
		// The other process sends it, and waits for the repair with its mark;
		// or does not, and marks it.
		eventually(t, "the late event", func() bool {
			return count(t.Context(), db, "event_outbox WHERE key = 'late' AND sent_at IS NOT NULL") > 0 ||
				count(t.Context(), db, "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") > 0
		})
	})
	early := 0
	eventually(t, "a repair of the second broker", func() bool {
		select {
		case <-repaired:
			return true
		default:
			// What the first process sends, the second broker misses.
			if early < 20 {
				publish(t, db, o, ping{"early", early})
				early++
			}
			return false
		}
	})
	for broker, h := range map[string]*hand{"one": one, "two": two} {
		missing := map[string]bool{"late 1": true}
		for value := range early {
			missing[fmt.Sprint("early ", value)] = true
		}
		for len(missing) > 0 {
			var e struct{ Data ping }
			p := receive(t, h.current().published, fmt.Sprintf("%d events at broker %s, such as late 1: %v", len(missing), broker, missing["late 1"]))
			if err := json.Unmarshal(p.body, &e); err != nil {
				t.Fatal(err)
			}
			delete(missing, fmt.Sprint(e.Data.Key, " ", e.Data.Value))
		}
	}
}
