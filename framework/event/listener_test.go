package event_test

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// However many events wait for a number, they follow it at once and in order.
func TestManyEventsWaitForOne(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{}
		run(t, event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, nil), event.Telemetry{}, b))
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

// An early event is not acknowledged before it is parked, whatever keeps it from that.
func TestEarlyEventIsParkedInTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b, waiting := &hand{}, make(chan struct{}, 1)
		telemetry := event.Telemetry{Log: slog.New(slog.NewTextHandler(told{"trying again", waiting}, nil))}
		run(t, event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, nil), telemetry, b))
		receive(t, b.deliver(t, "pings", message{key: "other", seq: 1}.body(), false), "an acknowledgement")
		rename := func(from, to string) {
			if err := db.InTx(t.Context(), func(tx *database.Tx) error {
				_, err := tx.ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		rename("event_parked", "elsewhere")
		acked := b.deliver(t, "pings", message{key: "a", seq: 2}.body(), false)
		select {
		case <-acked:
			t.Error("acknowledged, and parked nowhere")
		case <-waiting:
		}
		rename("elsewhere", "event_parked")
		receive(t, acked, "an acknowledgement")
		receive(t, b.deliver(t, "pings", message{key: "a", seq: 1}.body(), false), "an acknowledgement")
		eventually(t, "both effects", func() bool { return len(applied(t, db, "a")) == 2 })
	})
}

// told passes on that a log has said something.
type told struct {
	what string
	said chan struct{}
}

func (l told) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(l.what)) {
		select {
		case l.said <- struct{}{}:
		default:
		}
	}
	return len(line), nil
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
		run(t, event.NewClient(config, event.NewOutbox(db, "back"), l, event.Telemetry{}, b))
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
				run(t, event.NewClient(config, event.NewOutbox(db, "back"), l, event.Telemetry{}, b))
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
				if err := admin.New("back", db).Skip(t.Context(), letter); err == nil {
					t.Error("one can skip a gap that has closed")
				}
			})
		})
	}
}

// A failure of a released event is its own: what closed the gap takes effect.
func TestReleasedEventThatFailsIsBlamedItself(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{}
		run(t, event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, func(m *event.Message[ping]) error {
			if m.Sequence == 2 {
				return errors.New("poison")
			}
			return nil
		}), event.Telemetry{}, b))
		for _, seq := range []int{3, 2, 1} {
			receive(t, b.deliver(t, "pings", message{key: "a", seq: seq}.body(), false), "an acknowledgement")
		}
		letter := awaitLetter(t, db, "dead")
		if letter.Sequence != 2 || letter.Attempts != quick.Attempts || !strings.Contains(letter.Error, "poison") {
			t.Errorf("dead is %+v", letter)
		}
		if got := applied(t, db, "a"); !slices.Equal(got, upTo(1)) {
			t.Errorf("applied %v, want 1", got)
		}
	})
}

// A failure is recorded only if nobody has applied the event meanwhile.
func TestFailureThatAnotherMemberMadeGood(t *testing.T) {
	onBothURLs(t, func(t *testing.T, url string) {
		unlucky, s := openSpied(t, url)
		lucky, _ := openSpied(t, url)
		one, two := &hand{answers: true}, &hand{answers: true}
		body := message{key: "a", seq: 1}.body()
		failed := 0
		// The relay is on the other, so that only the listener's transactions are seen.
		run(t, event.NewClient(quick, event.NewOutbox(lucky, "back"), recorder(unlucky, func(*event.Message[ping]) error {
			if failed++; failed == 2 { // in the batch, and then alone
				begin := func(int64) {
					s.onBegin.Store(nil)
					receive(t, two.deliver(t, "pings", body, false), "the other member's acknowledgement")
				}
				s.onBegin.Store(&begin)
			}
			return errors.New("unlucky")
		}), event.Telemetry{}, one))
		run(t, event.NewClient(quick, event.NewOutbox(lucky, "back"), recorder(lucky, nil), event.Telemetry{}, two))
		two.member(t, "pings")
		receive(t, one.deliver(t, "pings", body, false), "an acknowledgement")
		if got := applied(t, lucky, "a"); !slices.Equal(got, upTo(1)) {
			t.Errorf("applied %v", got)
		}
		if n := count(t.Context(), lucky, "event_parked"); n != 0 {
			t.Errorf("%d events are parked although it was applied", n)
		}
	})
}

// What a handler returns, or does not, steers the listener.
func TestHandlerErrors(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{}
		l := event.NewListener(db, "back")
		h := newHeard()
		event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[ping]) error {
			h.note("%s %d", m.Key, m.Attempt)
			if err := record(ctx, tx, "back", m.Stream, m.Key, m.Sequence, m.ID, m.Attempt); err != nil {
				return err
			}
			switch m.Key {
			case "dead":
				return event.Dead(errors.New("for good"))
			case "always":
				return errors.New("always")
			}
			if m.Attempt > 2 {
				return nil
			}
			switch m.Key {
			case "panic":
				panic("oh")
			case "slow":
				<-ctx.Done()
				return ctx.Err()
			case "later":
				return event.RetryAfter(errors.New("busy"), 200*time.Millisecond)
			case "sql":
				_, err := tx.ExecContext(ctx, "INSERT INTO nowhere VALUES (1)")
				return err
			case "sql unheard":
				_, _ = tx.ExecContext(ctx, "INSERT INTO nowhere VALUES (1)")
				return errors.New("something else")
			default:
				return errors.New("planned")
			}
		})
		config := quick
		config.HandlerTimeout = 100 * time.Millisecond
		run(t, event.NewClient(config, event.NewOutbox(db, "back"), l, event.Telemetry{}, b))
		start := time.Now()
		healing := []string{"error", "panic", "slow", "later", "sql", "sql unheard"}
		for _, key := range slices.Concat(healing, []string{"dead", "always"}) {
			receive(t, b.deliver(t, "pings", message{key: key, seq: 1}.body(), false), "an acknowledgement")
		}
		for _, key := range healing {
			eventually(t, "the effect of "+key, func() bool { return len(applied(t, db, key)) == 1 })
		}
		if d := time.Since(start); d < 400*time.Millisecond {
			t.Errorf("two times RetryAfter(200 ms) took %v", d)
		}
		eventually(t, "the dead", func() bool { return len(letters(t, db)) == 2 })
		for _, letter := range letters(t, db) {
			want := map[string]int{"dead": 1, "always": config.Attempts}[letter.Key]
			if letter.Kind != "dead" || letter.Attempts != want {
				t.Errorf("%v after %d attempts, want %d", letter, letter.Attempts, want)
			}
			if len(applied(t, db, letter.Key)) != 0 {
				t.Errorf("%v has an effect", letter)
			}
		}
		// Every attempt is numbered; the first may be made twice, in a batch and alone.
		for _, key := range append(healing, "always") {
			calls := slices.Compact(slices.DeleteFunc(h.all(), func(s string) bool {
				return !strings.HasPrefix(s, key+" ") || strings.HasPrefix(s, "sql unheard") && key == "sql"
			}))
			if want := []string{key + " 1", key + " 2", key + " 3"}; !slices.Equal(calls, want) {
				t.Errorf("attempts %v, want %v", calls, want)
			}
		}
	})
}

// A dead event holds its own key up until an operator redrives or skips it.
func TestOperatorsRedriveAndSkip(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		ctx := t.Context()
		b := &hand{}
		var mended atomic.Bool
		run(t, event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, func(m *event.Message[ping]) error {
			if m.Sequence == 1 && m.Key != "healthy" && !mended.Load() {
				return event.Dead(errors.New("poison"))
			}
			return nil
		}), event.Telemetry{}, b))
		for _, key := range []string{"redriven", "skipped", "healthy"} {
			for seq := 1; seq <= 3; seq++ {
				receive(t, b.deliver(t, "pings", message{key: key, seq: seq}.body(), false), "an acknowledgement")
			}
		}
		if got := applied(t, db, "healthy"); !slices.Equal(got, upTo(3)) {
			t.Errorf("a healthy key has applied %v", got)
		}
		letter := map[string]admin.Letter{}
		for _, l := range letters(t, db) {
			letter[l.Key] = l
		}
		if len(letter) != 2 {
			t.Fatalf("letters %v", letter)
		}

		if err := admin.New("back", db).Redrive(ctx, letter["redriven"]); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the second death", func() bool {
			return len(letters(t, db)) == 2
		})
		mended.Store(true)
		eventually(t, "the second redrive", func() bool { return admin.New("back", db).Redrive(ctx, letter["redriven"]) == nil })
		eventually(t, "the redriven", func() bool { return len(applied(t, db, "redriven")) == 3 })
		if got := applied(t, db, "redriven"); !slices.Equal(got, upTo(3)) {
			t.Errorf("redriven: applied %v", got)
		}

		if err := admin.New("back", db).Skip(ctx, letter["skipped"]); err != nil {
			t.Fatal(err)
		}
		eventually(t, "what follows the skipped", func() bool { return len(applied(t, db, "skipped")) == 2 })
		if got := applied(t, db, "skipped"); !slices.Equal(got, []int64{2, 3}) {
			t.Errorf("skipped: applied %v", got)
		}
		if l := letters(t, db); len(l) != 0 {
			t.Errorf("letters %v", l)
		}

		for name, err := range map[string]error{
			"redrive what is applied": admin.New("back", db).Redrive(ctx, letter["redriven"]),
			"redrive what is skipped": admin.New("back", db).Redrive(ctx, letter["skipped"]),
			"redrive a gap":           admin.New("back", db).Redrive(ctx, admin.Letter{Group: "back", Stream: "pings", Key: "healthy", Sequence: 4, Kind: "gap"}),
			"redrive the unknown":     admin.New("back", db).Redrive(ctx, admin.Letter{Group: "back", Stream: "pings", Key: "unknown", Sequence: 1, Kind: "dead"}),
			"skip what is applied":    admin.New("back", db).Skip(ctx, letter["redriven"]),
			"skip twice":              admin.New("back", db).Skip(ctx, letter["skipped"]),
			"skip the unknown":        admin.New("back", db).Skip(ctx, admin.Letter{Group: "back", Stream: "pings", Key: "unknown", Sequence: 1, Kind: "dead"}),
		} {
			if err == nil {
				t.Errorf("one can %s", name)
			}
		}
	})
}

// A letter names what was found; by the time somebody acts on it, it may be
// settled. Then it is left alone.
func TestSkipLeavesAloneWhatIsNoLongerDead(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		ctx := t.Context()
		b := &hand{}
		var alive atomic.Bool
		config := quick
		config.GapTimeout = 20 * time.Millisecond
		run(t, event.NewClient(config, event.NewOutbox(db, "back"), recorder(db, func(m *event.Message[ping]) error {
			if m.Sequence > 1 {
				return nil
			}
			if alive.Load() {
				return event.RetryAfter(errors.New("later"), time.Hour)
			}
			return event.Dead(errors.New("poison"))
		}), event.Telemetry{}, b))
		receive(t, b.deliver(t, "pings", message{key: "dead", seq: 1}.body(), false), "an acknowledgement")
		receive(t, b.deliver(t, "pings", message{key: "gap", seq: 2}.body(), false), "an acknowledgement")
		dead, gap := awaitLetter(t, db, "dead"), awaitLetter(t, db, "gap")
		alive.Store(true)
		if err := admin.New("back", db).Redrive(ctx, dead); err != nil {
			t.Fatal(err)
		}
		receive(t, b.deliver(t, "pings", message{key: "gap", seq: 1}.body(), false), "an acknowledgement")
		if err := admin.New("back", db).Skip(ctx, dead); err == nil {
			t.Error("one can skip an event that was redriven meanwhile")
		}
		if err := admin.New("back", db).Skip(ctx, gap); err == nil {
			t.Error("one can skip an event that has arrived meanwhile")
		}
	})
}

// A batch that gets in another's way is done again one by one, so that two
// batches cannot hinder each other for ever; that counts no attempt.
func TestBatchThatDeadlocksIsDoneOneByOne(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{}
		entered, proceed := make(chan struct{}), make(chan struct{})
		inTx := map[*database.Tx]int{}
		l := event.NewListener(db, "back")
		event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[ping]) error {
			if m.Key == "slow" {
				close(entered)
				<-proceed
				return nil
			}
			if inTx[tx]++; inTx[tx] > 1 {
				return &pgconn.PgError{Code: "40P01", Message: "deadlock detected"}
			}
			return record(ctx, tx, "back", m.Stream, m.Key, m.Sequence, m.ID, m.Attempt)
		})
		config := quick
		config.Workers = 1
		run(t, event.NewClient(config, event.NewOutbox(db, "back"), l, event.Telemetry{}, b))
		b.deliver(t, "pings", message{key: "slow", seq: 1}.body(), false)
		receive(t, entered, "the slow handler")
		one := b.deliver(t, "pings", message{key: "a", seq: 1}.body(), false)
		two := b.deliver(t, "pings", message{key: "b", seq: 1}.body(), false)
		close(proceed)
		receive(t, one, "an acknowledgement")
		receive(t, two, "an acknowledgement")
		if n := count(t.Context(), db, "effect WHERE value = 1"); n != 2 {
			t.Errorf("%d effects of first attempts, want 2", n)
		}
	})
}

// A batch is one transaction with a handful of statements, however large it is.
func TestStatementsDoNotGrowWithTheBatch(t *testing.T) {
	onBothURLs(t, func(t *testing.T, url string) {
		db, s := openSpied(t, url)
		b := &hand{}
		var entered, proceed chan struct{}
		l := event.NewListener(db, "back")
		event.Handle(l, func(_ context.Context, _ *database.Tx, m *event.Message[ping]) error {
			if m.Key == "slow" {
				entered <- struct{}{}
				<-proceed
			}
			return nil
		})
		config := quick
		config.Workers, config.Batch = 1, 1000
		run(t, event.NewClient(config, event.NewOutbox(db, "back"), l, event.Telemetry{}, b))
		slow := 0
		cost := func(name string, n int) (begins, statements int64) {
			entered, proceed = make(chan struct{}), make(chan struct{})
			slow++
			b.deliver(t, "pings", message{key: "slow", seq: slow}.body(), false)
			receive(t, entered, "the slow handler")
			var acks []chan struct{}
			for i := range n {
				// Two events of a key each, and one that has to wait.
				for _, seq := range []int{1, 2, 4} {
					acks = append(acks, b.deliver(t, "pings", message{key: fmt.Sprint(name, i), seq: seq}.body(), false))
				}
			}
			begins, statements = s.begins.Load(), s.statements.Load()
			close(proceed)
			for _, a := range acks {
				receive(t, a, "an acknowledgement")
			}
			return s.begins.Load() - begins, s.statements.Load() - statements
		}
		b1, s1 := cost("few", 1)
		b2, s2 := cost("many", 70)
		// The sweep, the relay and the schedule look about meanwhile.
		const others = 12
		if b2 > b1+others || s2 > s1+others {
			t.Errorf("3 events: %d transactions and %d statements; 210 events: %d and %d", b1, s1, b2, s2)
		}
	})
}

// In a batch in which one fails, the others take effect all the same.
func TestOneFailureInABatch(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{}
		entered, proceed := make(chan struct{}), make(chan struct{})
		config := quick
		config.Workers = 1
		run(t, event.NewClient(config, event.NewOutbox(db, "back"), recorder(db, func(m *event.Message[ping]) error {
			switch m.Key {
			case "slow":
				close(entered)
				<-proceed
			case "k3":
				return event.Dead(errors.New("poison"))
			}
			return nil
		}), event.Telemetry{}, b))
		b.deliver(t, "pings", message{key: "slow", seq: 1}.body(), false)
		receive(t, entered, "the slow handler")
		var acks []chan struct{}
		for i := range 8 {
			acks = append(acks, b.deliver(t, "pings", message{key: fmt.Sprint("k", i), seq: 1}.body(), false))
		}
		close(proceed)
		for _, a := range acks {
			receive(t, a, "an acknowledgement")
		}
		for i := range 8 {
			if got := len(applied(t, db, fmt.Sprint("k", i))); (got == 1) != (i != 3) {
				t.Errorf("k%d has %d effects", i, got)
			}
		}
		if l := letters(t, db); len(l) != 1 || l[0].Key != "k3" {
			t.Errorf("letters %v", l)
		}
	})
}

// Messages that are no events are kept for people and hold nothing up; so is a
// number that was given to two events.
func TestMalformedMessagesAndForks(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{}
		run(t, event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, nil), event.Telemetry{}, b))
		malformed := []string{
			"", "not JSON", "\xff\xfe", "a\x00b", `{"specversion":"1.0"}`,
			`{"specversion":"0.3","id":"x","type":"ping","subject":"a","sequence":"1"}`,
			`{"specversion":"1.0","id":"x","type":"ping","subject":"a","sequence":"0"}`,
			`{"specversion":"1.0","id":"x","type":"ping","subject":"a","sequence":"9223372036854775808"}`,
			`{"specversion":"1.0","id":"x","type":"ping","subject":"a\u0000b","sequence":"1"}`,
			`{"specversion":"1.0","id":"x","type":"ping","subject":"a","sequence":"1","time":"\u0000"}`,
		}
		for _, body := range malformed {
			receive(t, b.deliver(t, "pings", []byte(body), false), "an acknowledgement")
		}
		found := letters(t, db)
		if len(found) != len(malformed) {
			t.Errorf("%d letters for %d malformed messages: %v", len(found), len(malformed), found)
		}
		for _, l := range found {
			if l.Kind != "malformed" || l.Error == "" || l.Stream != "pings" {
				t.Errorf("the letter is %+v", l)
			}
			if err := admin.New("back", db).Skip(t.Context(), l); err != nil {
				t.Error(err)
			}
		}
		if l := letters(t, db); len(l) != 0 {
			t.Errorf("letters stay: %v", l)
		}

		// Data that does not decode is the event's own trouble.
		receive(t, b.deliver(t, "pings", message{key: "odd", seq: 1, data: "text"}.body(), false), "an acknowledgement")
		if l := awaitLetter(t, db, "dead"); l.Key != "odd" {
			t.Errorf("dead is %+v", l)
		}

		receive(t, b.deliver(t, "pings", message{key: "a", seq: 1}.body(), false), "an acknowledgement")
		receive(t, b.deliver(t, "pings", message{key: "a", seq: 1}.body(), true), "an acknowledgement")
		receive(t, b.deliver(t, "pings", message{key: "a", seq: 1, id: "another", source: "a\x00b"}.body(), false), "an acknowledgement")
		if l := awaitLetter(t, db, "fork"); l.Key != "a" || l.Sequence != 1 || !strings.Contains(l.Error, "another") {
			t.Errorf("the fork is %+v", l)
		}
		receive(t, b.deliver(t, "pings", message{key: "a", seq: 2}.body(), false), "an acknowledgement")
		if got := applied(t, db, "a"); !slices.Equal(got, upTo(2)) {
			t.Errorf("applied %v", got)
		}
	})
}

// A group that comes late takes as a key's start what was numbered before its
// time, and nothing else.
func TestLateGroupAdopts(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{}
		config := quick
		config.GapTimeout = 50 * time.Millisecond
		run(t, event.NewClient(config, event.NewOutbox(db, "back"), recorder(db, nil), event.Telemetry{}, b))
		long, recent := time.Now().Add(-time.Hour), time.Now().Add(-time.Second)
		for _, m := range []message{
			{key: "late", seq: 7, previous: long}, {key: "late", seq: 8, previous: recent},
			{key: "recent", seq: 2, previous: recent},
			{key: "unknown", seq: 2},
			{key: "known", seq: 1}, {key: "known", seq: 5, previous: long},
		} {
			receive(t, b.deliver(t, "pings", m.body(), false), "an acknowledgement")
		}
		eventually(t, "the adopted events", func() bool { return len(applied(t, db, "late")) == 2 })
		eventually(t, "three gaps", func() bool { return len(letters(t, db)) == 3 })
		if got := applied(t, db, "late"); !slices.Equal(got, []int64{7, 8}) {
			t.Errorf("late: applied %v", got)
		}
		for _, key := range []string{"recent", "unknown"} {
			if got := applied(t, db, key); len(got) != 0 {
				t.Errorf("%s: applied %v without number 1", key, got)
			}
			receive(t, b.deliver(t, "pings", message{key: key, seq: 1}.body(), false), "an acknowledgement")
			eventually(t, "both", func() bool { return len(applied(t, db, key)) == 2 })
			if got := applied(t, db, key); !slices.Equal(got, upTo(2)) {
				t.Errorf("%s: applied %v", key, got)
			}
		}
		// What came before the adopted start is a duplicate.
		receive(t, b.deliver(t, "pings", message{key: "late", seq: 6}.body(), false), "an acknowledgement")
		if got := applied(t, db, "late"); len(got) != 2 {
			t.Errorf("late: applied %v", got)
		}
	})
}

// During a rolling update an older member leaves to the newer ones what only
// they can handle; a type that is ignored, or that nobody handles, is passed.
func TestTypesThatOnlyNewerMembersHandle(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		older, newer := &hand{}, &hand{}
		full := recorder(db, nil)
		event.Handle(full, func(ctx context.Context, tx *database.Tx, m *event.Message[novel]) error {
			return record(ctx, tx, "back", m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value)
		})
		stop := run(t, event.NewClient(quick, event.NewOutbox(db, "back"), full, event.Telemetry{}, newer))
		newer.member(t, "pings")
		stop()

		run(t, event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, nil), event.Telemetry{}, older))
		for seq, typ := range []string{"ping", "odd", "novel", "ping", "novel"} {
			receive(t, older.deliver(t, "pings", message{typ: typ, key: "a", seq: seq + 1}.body(), false), "an acknowledgement")
		}
		if got := applied(t, db, "a"); !slices.Equal(got, upTo(1)) {
			t.Errorf("the older member applied %v", got)
		}
		full = recorder(db, nil)
		event.Handle(full, func(ctx context.Context, tx *database.Tx, m *event.Message[novel]) error {
			return record(ctx, tx, "back", m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value)
		})
		stop = run(t, event.NewClient(quick, event.NewOutbox(db, "back"), full, event.Telemetry{}, newer))
		eventually(t, "all effects", func() bool { return len(applied(t, db, "a")) == 4 })
		if got := applied(t, db, "a"); !slices.Equal(got, []int64{1, 3, 4, 5}) {
			t.Errorf("applied %v", got)
		}
		stop()

		// A version that gives the type up says so.
		ignoring := recorder(db, nil)
		event.Ignore[novel](ignoring)
		b := &hand{}
		run(t, event.NewClient(quick, event.NewOutbox(db, "back"), ignoring, event.Telemetry{}, b))
		receive(t, b.deliver(t, "pings", message{typ: "novel", key: "b", seq: 1}.body(), false), "an acknowledgement")
		receive(t, older.deliver(t, "pings", message{typ: "novel", key: "b", seq: 2}.body(), false), "an acknowledgement")
		receive(t, older.deliver(t, "pings", message{key: "b", seq: 3}.body(), false), "an acknowledgement")
		if got := applied(t, db, "b"); !slices.Equal(got, []int64{3}) {
			t.Errorf("applied %v", got)
		}
	})
}

// A handler that ends its process is counted once the event is redelivered, and
// comes to an end as any other.
func TestHandlerThatKillsItsProcess(t *testing.T) {
	onBothURLs(t, func(t *testing.T, url string) {
		db, err := database.New(database.Config{URL: url, Wrap: func(c driver.Connector) driver.Connector { return fragile{Connector: c} }}, event.Migrations(), effects())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		if err := db.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		body := message{key: "a", seq: 1}.body()
		deaths := 0
		for len(letters(t, db)) == 0 {
			p, ctx := newProcess(t.Context())
			b := &hand{}
			l := event.NewListener(db, "back")
			killed := make(chan struct{})
			event.Handle(l, func(ctx context.Context, _ *database.Tx, m *event.Message[ping]) error {
				deaths++
				p.crash()
				close(killed)
				return ctx.Err()
			})
			config := quick
			config.DrainTimeout = 50 * time.Millisecond // the dead do not drain
			c := event.NewClient(config, event.NewOutbox(db, "back"), l, event.Telemetry{}, b)
			done := make(chan error, 1)
			go func() { done <- c.Run(ctx) }()
			if deaths < 2 { // then it is parked, and needs no delivery
				b.deliver(t, "pings", body, deaths > 0)
			}
			eventually(t, "a death, or the end of it", func() bool {
				select {
				case <-killed:
					return true
				default:
					return len(letters(t, db)) > 0
				}
			})
			p.crash()
			receive(t, done, "the end of the process")
			if deaths > 2*quick.Attempts {
				t.Fatalf("%d deaths and no end", deaths)
			}
		}
		if l := letters(t, db); len(l) != 1 || l[0].Kind != "dead" || l[0].Attempts != quick.Attempts {
			t.Errorf("letters %+v after %d deaths", l, deaths)
		}
	})
}
