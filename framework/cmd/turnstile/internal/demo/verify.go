package demo

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	_ "modernc.org/sqlite" // the driver that reads the services' databases

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/dev"
)

// committed is an event that a service has committed to its database.
type committed struct {
	position
	source string // the service
	id     string
	typ    string
	at     time.Time
}

// applied is the effect of an event in a listener group, as its journal has it.
type applied struct {
	position
	group string
	row   int64 // of the journal: rows are in the order of their transactions
	id    string
	typ   string
	at    time.Time
}

// position is the place of an event in its stream.
type position struct {
	stream, key string
	seq         int64
}

func (p position) String() string { return fmt.Sprintf("%s %s number %d", p.stream, p.key, p.seq) }

// lane is one key of a stream as one group sees it; group is empty for the publisher.
type lane struct{ group, stream, key string }

// books are what all databases say: what was committed, and what came of it.
type books struct {
	committed []committed // by time
	applied   []applied   // by group, then row
	last      map[lane]int64
	cursors   map[lane]int64
	waiting   []string // what should not be there once the system is quiet, in words
}

// interest says which groups handle which types of a stream.
type interest map[string]map[string]map[string]bool // stream → group → type

func interests(descriptions map[string]dev.Description) interest {
	all := interest{}
	for _, d := range descriptions {
		for _, l := range d.Listens {
			if all[l.Stream] == nil {
				all[l.Stream] = map[string]map[string]bool{}
			}
			if all[l.Stream][l.Group] == nil {
				all[l.Stream][l.Group] = map[string]bool{}
			}
			all[l.Stream][l.Group][l.Type] = true
		}
	}
	return all
}

func open(file string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath()+"?mode=ro&_pragma=busy_timeout(10000)")
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	return db, nil
}

// scan calls row for every row of a query; row is given the function that reads the columns.
func scan(ctx context.Context, db *sql.DB, query string, row func(scan func(...any) error) error) (err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// read reads the books from the services' databases, given by the service's name.
func read(ctx context.Context, databases map[string]*sql.DB) (*books, error) {
	b := &books{last: map[lane]int64{}, cursors: map[lane]int64{}}
	for _, service := range slices.Sorted(maps.Keys(databases)) {
		if err := b.add(ctx, service, databases[service]); err != nil {
			return nil, fmt.Errorf("read the database of %s: %w", service, err)
		}
	}
	slices.SortStableFunc(b.committed, func(a, c committed) int {
		return cmp.Or(a.at.Compare(c.at), cmp.Compare(a.seq, c.seq))
	})
	slices.SortStableFunc(b.applied, func(a, c applied) int {
		return cmp.Or(cmp.Compare(a.group, c.group), cmp.Compare(a.row, c.row))
	})
	return b, nil
}

func (b *books) add(ctx context.Context, service string, db *sql.DB) error {
	err := scan(ctx, db, `SELECT stream, key, seq, event_id, type, at FROM event_outbox`, func(scan func(...any) error) error {
		e, at := committed{source: service}, int64(0)
		err := scan(&e.stream, &e.key, &e.seq, &e.id, &e.typ, &at)
		e.at = time.UnixMicro(at)
		b.committed = append(b.committed, e)
		return err
	})
	if err != nil {
		return err
	}
	err = scan(ctx, db, `SELECT id, grp, stream, key, seq, event_id, type, applied_at FROM event_journal`, func(scan func(...any) error) error {
		e, at := applied{}, int64(0)
		err := scan(&e.row, &e.group, &e.stream, &e.key, &e.seq, &e.id, &e.typ, &at)
		e.at = time.UnixMicro(at)
		b.applied = append(b.applied, e)
		return err
	})
	if err != nil {
		return err
	}
	for query, numbers := range map[string]map[lane]int64{
		`SELECT '', stream, key, last FROM event_sequence`: b.last,
		`SELECT grp, stream, key, seq FROM event_cursor`:   b.cursors,
	} {
		err := scan(ctx, db, query, func(scan func(...any) error) error {
			var l lane
			var n int64
			err := scan(&l.group, &l.stream, &l.key, &n)
			numbers[l] = n
			return err
		})
		if err != nil {
			return err
		}
	}
	for query, what := range map[string]string{
		`SELECT stream || ' ' || key || ' number ' || seq FROM event_outbox WHERE sent_at IS NULL`:                            "not sent to the broker",
		`SELECT type || ' for ' || key FROM event_scheduled`:                                                                  "scheduled and not published",
		`SELECT grp || ': ' || stream || ' ' || key || ' number ' || seq || ' (' || state || ') ' || error FROM event_parked`: "set aside",
		`SELECT grp || ': ' || stream || ' ' || key || ' number ' || seq || ' (' || kind || ') ' || error FROM event_letter`:  "a dead letter",
	} {
		err := scan(ctx, db, query, func(scan func(...any) error) error {
			var which string
			err := scan(&which)
			b.waiting = append(b.waiting, service+": "+what+": "+which)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// report is the outcome of the comparison.
type report struct {
	events    int             // committed
	effects   []time.Duration // from commit to effect, of every event in every group that handles it; sorted
	lost      []string
	doubled   []string
	reordered []string
	other     []string
}

// ok reports whether everything is as it should be.
func (r report) ok() bool {
	return len(r.lost)+len(r.doubled)+len(r.reordered)+len(r.other) == 0
}

func (r report) percentile(p int) time.Duration {
	if len(r.effects) == 0 {
		return 0
	}
	return r.effects[min(len(r.effects)-1, len(r.effects)*p/100)]
}

// verify compares what was committed with what came of it: every group must have applied every event of a type that
// it handles exactly once, and those of one key in the order of their numbers. The system must be quiet.
func verify(b *books, in interest) report {
	r := report{events: len(b.committed), other: slices.Clone(b.waiting)}

	events := map[position]committed{}
	per := map[lane]int64{}
	for _, e := range b.committed {
		if twin, ok := events[e.position]; ok {
			r.other = append(r.other, fmt.Sprintf("%v: two events have this place: %s of %s and %s of %s", e.position, twin.id, twin.source, e.id, e.source))
		}
		events[e.position] = e
		per[lane{"", e.stream, e.key}]++
	}
	for _, l := range slices.SortedFunc(maps.Keys(b.last), compareLanes) {
		// Numbers are given one by one, and the outbox keeps what was sent for longer than a demonstration takes.
		if per[l] != b.last[l] {
			r.lost = append(r.lost, fmt.Sprintf("%s %s: %d numbers were given, but the outbox has %d events", l.stream, l.key, b.last[l], per[l]))
		}
		for _, group := range slices.Sorted(maps.Keys(in[l.stream])) {
			if n := b.cursors[lane{group, l.stream, l.key}]; n != b.last[l] {
				r.other = append(r.other, fmt.Sprintf("%s: the cursor of %s %s is at %d of %d", group, l.stream, l.key, n, b.last[l]))
			}
		}
	}

	type effect struct {
		group string
		position
	}
	times := map[effect]int{}
	high := map[lane]int64{}
	for _, a := range b.applied {
		e, known := events[a.position]
		switch {
		case !known:
			r.other = append(r.other, fmt.Sprintf("%s: applied %v (%s), which nobody committed", a.group, a.position, a.id))
			continue
		case e.id != a.id:
			r.other = append(r.other, fmt.Sprintf("%s: applied %s as %v, which is %s", a.group, a.id, a.position, e.id))
		case !in[a.stream][a.group][a.typ]:
			r.other = append(r.other, fmt.Sprintf("%s: applied %v, a %s, which it does not handle", a.group, a.position, a.typ))
		}
		key, l := effect{a.group, a.position}, lane{a.group, a.stream, a.key}
		if times[key]++; times[key] == 2 {
			r.doubled = append(r.doubled, fmt.Sprintf("%s: %v (%s)", a.group, a.position, a.typ))
		}
		if times[key] == 1 {
			if a.seq < high[l] {
				r.reordered = append(r.reordered, fmt.Sprintf("%s: %v (%s) after number %d", a.group, a.position, a.typ, high[l]))
			}
			r.effects = append(r.effects, max(0, a.at.Sub(e.at)))
		}
		high[l] = max(high[l], a.seq)
	}
	for _, e := range b.committed {
		for _, group := range slices.Sorted(maps.Keys(in[e.stream])) {
			if in[e.stream][group][e.typ] && times[effect{group, e.position}] == 0 {
				r.lost = append(r.lost, fmt.Sprintf("%s: %v (%s)", group, e.position, e.typ))
			}
		}
	}
	slices.Sort(r.effects)
	return r
}

func compareLanes(a, b lane) int {
	return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(a.key, b.key), cmp.Compare(a.group, b.group))
}

// flow counts where events are, cheaply enough to ask all the time.
type flow struct {
	committed int64 // events with a number
	unapplied int64 // effects that are due and have not happened, types that nobody handles included
	unsent    int64
	scheduled int64
	parked    int64
}

func (f flow) quiet() bool {
	return f.unapplied == 0 && f.unsent == 0 && f.scheduled == 0 && f.parked == 0
}

// measure takes the flow. Databases that do not exist yet count as empty.
func measure(ctx context.Context, databases map[string]*sql.DB, in interest) (f flow, err error) {
	last := map[string]int64{}      // by stream
	cursor := map[[2]string]int64{} // by group and stream
	for service, db := range databases {
		err := scan(ctx, db, `
SELECT 'last', '', stream, SUM(last) FROM event_sequence GROUP BY stream UNION ALL
SELECT 'cursor', grp, stream, SUM(seq) FROM event_cursor GROUP BY grp, stream UNION ALL
SELECT 'unsent', '', '', COUNT(*) FROM event_outbox WHERE sent_at IS NULL UNION ALL
SELECT 'scheduled', '', '', COUNT(*) FROM event_scheduled UNION ALL
SELECT 'parked', '', '', COUNT(*) FROM event_parked`, func(scan func(...any) error) error {
			var what, group, stream string
			var n int64
			err := scan(&what, &group, &stream, &n)
			switch what {
			case "last":
				last[stream] += n
				f.committed += n
			case "cursor":
				cursor[[2]string{group, stream}] += n
			case "unsent":
				f.unsent += n
			case "scheduled":
				f.scheduled += n
			case "parked":
				f.parked += n
			}
			return err
		})
		if err != nil {
			return flow{}, fmt.Errorf("read the database of %s: %w", service, err)
		}
	}
	for stream, groups := range in {
		for group := range groups {
			f.unapplied += last[stream] - cursor[[2]string{group, stream}]
		}
	}
	return f, nil
}
