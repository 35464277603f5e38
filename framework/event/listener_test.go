package event_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
)

// However many events wait for a number, they follow it at once and in order.
func TestManyEventsWaitForOne(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{}
		run(t, event.NewClient(quick, b, event.NewOutbox(db, "back"), recorder(db, nil), event.Telemetry{}))
		const n = 200
		for i := 2; i <= n; i++ {
			receive(t, b.deliver(t, "pings", message{key: "a", seq: i}.body(), false), "an acknowledgement")
		}
		receive(t, b.deliver(t, "pings", message{key: "a", seq: 1}.body(), false), "an acknowledgement")
		eventually(t, "all effects", func() bool { return len(applied(t, db, "a")) >= n })
		if got := applied(t, db, "a"); !slices.Equal(got, upTo(n)) {
			t.Errorf("applied %v", got)
		}
	})
}

// What is parked may be sent again, together with what it waits for.
func TestParkedEventsComeAgainInOneBatch(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{}
		entered, proceed := make(chan struct{}), make(chan struct{})
		l := recorder(db, func(m *event.Message[ping]) error {
			if m.Key == "slow" {
				close(entered)
				<-proceed
			}
			return nil
		})
		config := quick
		config.Workers, config.Batch, config.GapTimeout = 1, 1000, 50*time.Millisecond
		run(t, event.NewClient(config, b, event.NewOutbox(db, "back"), l, event.Telemetry{}))
		const n = 150
		for i := 2; i <= n; i++ {
			receive(t, b.deliver(t, "pings", message{key: "a", seq: i}.body(), false), "an acknowledgement")
		}
		b.deliver(t, "pings", message{key: "slow", seq: 1}.body(), false)
		receive(t, entered, "the slow handler")
		var last chan struct{}
		for i := 1; i <= n+10; i++ {
			last = b.deliver(t, "pings", message{key: "a", seq: i}.body(), false)
		}
		close(proceed)
		receive(t, last, "the last acknowledgement")
		eventually(t, "all effects", func() bool { return len(applied(t, db, "a")) >= n+10 })
		if got := applied(t, db, "a"); !slices.Equal(got, upTo(n+10)) {
			t.Errorf("applied %v", got)
		}
		eventually(t, "an empty ledger", func() bool {
			return count(t.Context(), db, "event_parked") == 0 && count(t.Context(), db, "event_cursor WHERE parked <> 0") == 0
		})
		if l := letters(t, db); len(l) != 0 {
			t.Errorf("letters: %v", l)
		}
	})
}

// A number that stays away is reported after GapTimeout, with its successors
// waiting; when it arrives after all, in whatever manner, the report is gone.
func TestGapIsReportedUntilItCloses(t *testing.T) {
	for name, arrival := range map[string]struct {
		redelivered bool
		failures    int32
	}{
		"plainly": {}, "redelivered": {redelivered: true}, "and fails at first": {failures: 1},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, db *database.DB) {
				b := &hand{}
				var failures atomic.Int32
				failures.Store(arrival.failures)
				l := recorder(db, func(m *event.Message[ping]) error {
					if m.Sequence == 2 && failures.Add(-1) >= 0 {
						return errors.New("planned")
					}
					return nil
				})
				config := quick
				config.GapTimeout = 20 * time.Millisecond
				run(t, event.NewClient(config, b, event.NewOutbox(db, "back"), l, event.Telemetry{}))
				for _, seq := range []int{1, 4, 3} {
					receive(t, b.deliver(t, "pings", message{key: "a", seq: seq}.body(), false), "an acknowledgement")
				}
				letter := awaitLetter(t, db, "gap")
				if letter.Key != "a" || letter.Sequence != 2 || letter.Group != "back" || letter.Stream != "pings" || letter.Error == "" || letter.At.IsZero() {
					t.Errorf("the letter is %+v", letter)
				}
				if got := applied(t, db, "a"); !slices.Equal(got, upTo(1)) {
					t.Errorf("applied %v with number 2 missing", got)
				}
				receive(t, b.deliver(t, "pings", message{key: "a", seq: 2}.body(), arrival.redelivered), "an acknowledgement")
				eventually(t, "the effects", func() bool { return len(applied(t, db, "a")) == 4 })
				eventually(t, "the end of the letter", func() bool { return len(letters(t, db)) == 0 })
				if got := applied(t, db, "a"); !slices.Equal(got, upTo(4)) {
					t.Errorf("applied %v", got)
				}
			})
		})
	}
}
