package e2e

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	_ "modernc.org/sqlite" // reads the services' databases

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
)

// books are the databases of a system's services, read only, by service.
type books struct {
	t   *testing.T
	dbs map[string]*sql.DB
}

// books opens the databases of all services.
func (s *system) books(t *testing.T) *books {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, ".turnstile", "data", "*.db"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no databases: %v", err)
	}
	b := &books{t: t, dbs: map[string]*sql.DB{}}
	for _, file := range files {
		db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath()+"?mode=ro&_pragma=busy_timeout(10000)")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() }) // only read
		name := filepath.Base(file)
		b.dbs[name[:len(name)-len(".db")]] = db
	}
	return b
}

// rows calls row with every row of a query on one database; row is given the function that reads the columns.
func (b *books) rows(service, query string, row func(scan func(...any)), args ...any) {
	b.t.Helper()
	rows, err := b.dbs[service].QueryContext(context.Background(), query, args...)
	if err != nil {
		b.t.Fatalf("%s: %v", service, err)
	}
	defer rows.Close()
	for rows.Next() {
		row(func(to ...any) {
			b.t.Helper()
			if err := rows.Scan(to...); err != nil {
				b.t.Fatalf("%s: %v", service, err)
			}
		})
	}
	if err := rows.Err(); err != nil {
		b.t.Fatalf("%s: %v", service, err)
	}
}

// count returns the number that a query on every database adds up to.
func (b *books) count(query string, args ...any) (sum int) {
	b.t.Helper()
	for service := range b.dbs {
		b.rows(service, query, func(scan func(...any)) {
			var n int
			scan(&n)
			sum += n
		}, args...)
	}
	return sum
}

// place is that of an event: its stream, its key, and its number among the key's events.
type place struct {
	stream, key string
	seq         int64
}

// lane is a key of a stream as a listener group sees it.
type lane struct{ group, stream, key string }

// awaitQuiet waits until every event has arrived wherever somebody listens. Events scheduled for a time more than ahead
// from now are left alone.
func (b *books) awaitQuiet(ahead time.Duration) {
	b.t.Helper()
	due := int64(math.MaxInt64)
	if ahead < math.MaxInt64 {
		due = time.Now().Add(ahead).UnixMicro()
	}
	eventually(b.t, "all events have had their effects", func() error {
		if n := b.count(`SELECT COUNT(*) FROM event_outbox WHERE sent_at IS NULL`); n > 0 {
			return fmt.Errorf("%d events are not sent", n)
		}
		if n := b.count(`SELECT COUNT(*) FROM event_scheduled WHERE due_at <= $1`, due); n > 0 {
			return fmt.Errorf("%d scheduled events are not published", n)
		}
		if n := b.count(`SELECT COUNT(*) FROM event_parked`); n > 0 {
			return fmt.Errorf("%d events are parked", n)
		}
		last, cursors, groups := map[lane]int64{}, map[lane]int64{}, map[string][]string{}
		for service := range b.dbs {
			for query, numbers := range map[string]map[lane]int64{
				`SELECT '', stream, key, last FROM event_sequence`: last,
				`SELECT grp, stream, key, seq FROM event_cursor`:   cursors,
			} {
				b.rows(service, query, func(scan func(...any)) {
					var l lane
					var n int64
					scan(&l.group, &l.stream, &l.key, &n)
					numbers[l] = n
				})
			}
			b.rows(service, `SELECT stream, grp FROM event_subscription`, func(scan func(...any)) {
				var stream, group string
				scan(&stream, &group)
				groups[stream] = append(groups[stream], group)
			})
		}
		for l, n := range last {
			for _, group := range groups[l.stream] {
				if at := cursors[lane{group, l.stream, l.key}]; at != n {
					return fmt.Errorf("%s has come to %d of %d in %s %s", group, at, n, l.stream, l.key)
				}
			}
		}
		return nil
	})
}

// check compares what was committed with what came of it, for the quiet system: every group has applied every event
// of a type that it handles exactly once, those of one key in order, and nothing else.
func (b *books) check() (events int) {
	b.t.Helper()
	type event struct{ id, typ string }
	committed := map[place]event{}
	handles := map[string]map[[2]string]bool{} // by group: stream and type
	for service := range b.dbs {
		b.rows(service, `SELECT stream, key, seq, event_id, type FROM event_outbox`, func(scan func(...any)) {
			var p place
			var e event
			scan(&p.stream, &p.key, &p.seq, &e.id, &e.typ)
			if _, twice := committed[p]; twice {
				b.t.Errorf("%v was committed twice", p)
			}
			committed[p] = e
		})
		b.rows(service, `SELECT grp, stream, type FROM event_type`, func(scan func(...any)) {
			var group, stream, typ string
			scan(&group, &stream, &typ)
			if handles[group] == nil {
				handles[group] = map[[2]string]bool{}
			}
			handles[group][[2]string{stream, typ}] = true
		})
		b.rows(service, `SELECT grp, stream, key, seq, kind, error FROM event_letter`, func(scan func(...any)) {
			var l lane
			var seq int64
			var kind, why string
			scan(&l.group, &l.stream, &l.key, &seq, &kind, &why)
			b.t.Errorf("a letter: %v number %d is a %s: %s", l, seq, kind, why)
		})
	}
	numbers := map[lane]int64{}
	for p := range committed {
		numbers[lane{"", p.stream, p.key}]++
	}
	applied := map[string]map[place]int{} // by group
	for service := range b.dbs {
		b.rows(service, `SELECT stream, key, last FROM event_sequence`, func(scan func(...any)) {
			var l lane
			var last int64
			scan(&l.stream, &l.key, &last)
			if numbers[l] != last {
				b.t.Errorf("%s %s: %d numbers were given, and %d events are in the outbox", l.stream, l.key, last, numbers[l])
			}
		})
		high := map[lane]int64{}
		b.rows(service, `SELECT grp, stream, key, seq, event_id FROM event_journal ORDER BY id`, func(scan func(...any)) {
			var group, id string
			var p place
			scan(&group, &p.stream, &p.key, &p.seq, &id)
			if applied[group] == nil {
				applied[group] = map[place]int{}
			}
			applied[group][p]++
			l := lane{group, p.stream, p.key}
			if p.seq < high[l] {
				b.t.Errorf("%s: %v was applied after number %d", group, p, high[l])
			}
			high[l] = p.seq
			if e, ok := committed[p]; !ok || e.id != id {
				b.t.Errorf("%s: applied %s as %v, where %q was committed", group, id, p, e.id)
			}
		})
	}
	for group, types := range handles {
		for p, e := range committed {
			want := 0
			if types[[2]string{p.stream, e.typ}] {
				want = 1
			}
			if got := applied[group][p]; got != want {
				b.t.Errorf("%s: %s %v was applied %d times, want %d", group, e.typ, p, got, want)
			}
		}
	}
	return len(committed)
}

// pending returns how many payments are neither captured nor declined.
func (b *books) pending() (n int) {
	b.t.Helper()
	b.rows("payments", `SELECT COUNT(*) FROM payments WHERE status = 'pending'`, func(scan func(...any)) { scan(&n) })
	return n
}

// checkApplication compares the services with each other and with the rules of the business, for the quiet system. It
// returns how many orders there are in each status.
func (b *books) checkApplication() map[string]int {
	b.t.Helper()
	r, err := invariants.Check(b.t.Context(), invariants.Application{
		Auth: b.dbs["auth"], Orders: b.dbs["orders"], Payments: b.dbs["payments"], Tickets: b.dbs["tickets"],
	}, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, v := range r.Violations {
		b.t.Error(v)
	}
	return r.Orders
}

var errNotYet = errors.New("not yet")
