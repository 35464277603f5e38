package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Ledger is the ledger of one service: its outbox, and the cursors of its
// listener groups. Create it with New or Dial.
type Ledger struct {
	service string
	source
}

// source is where a ledger is read and changed: the database, or the service's
// admin port.
type source interface {
	fmt.Stringer
	events(context.Context, Filter) ([]Event, error)
	letters(context.Context, Filter) ([]Letter, error)
	parked(context.Context, Filter) ([]Parked, error)
	books(context.Context, Filter) (*books, error)
	positions(context.Context) (*positions, error)
	committed(context.Context, []place) ([]Event, error)
	redrive(context.Context, Letter) error
	skip(context.Context, Letter) error
	replay(context.Context, chunk) (chunk, error)
}

// New returns the ledger that service keeps in db. It opens nothing.
func New(service string, db *database.DB) *Ledger {
	return &Ledger{service, &local{service, db}}
}

// Service is the name of the service whose ledger this is.
func (l *Ledger) Service() string { return l.service }

// String names the ledger for people.
func (l *Ledger) String() string { return l.service + " (" + l.source.String() + ")" }

// failed says in whose ledger something went wrong.
func (l *Ledger) failed(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s in the ledger of %v: %w", doing, l, l.explain(ctx, err))
}

// Filter picks from a ledger. Its zero value picks everything; every field that
// is set leaves out what it does not match.
type Filter struct {
	ID       string    `json:"id,omitempty"` // of an event
	Group    string    `json:"group,omitempty"`
	Stream   string    `json:"stream,omitempty"`
	Key      string    `json:"key,omitempty"`
	Sequence int64     `json:"sequence,omitempty"`
	Type     string    `json:"type,omitempty"`
	State    string    `json:"state,omitempty"` // of an event, or the kind of a letter
	Since    time.Time `json:"since,omitzero"`  // when it was committed, or put aside
	Limit    int       `json:"limit,omitempty"` // the newest so many; 0 for all
	Body     bool      `json:"body,omitempty"`  // with the message itself
}

// Event is an event that a service has committed, or will when it is due.
type Event struct {
	Service  string    `json:"service"`
	Stream   string    `json:"stream"`
	Key      string    `json:"key"`
	Sequence int64     `json:"sequence,omitempty"` // in the key; 0 before it is due
	ID       string    `json:"id"`
	Type     string    `json:"type"`
	State    string    `json:"state"`          // scheduled, unsent or sent
	At       time.Time `json:"at,omitzero"`    // of the commit
	Due      time.Time `json:"due,omitzero"`   // of what is scheduled
	Sent     time.Time `json:"sent,omitzero"`  // when a broker had acknowledged it last
	Body     string    `json:"body,omitempty"` // if the Filter asks for it
}

func (e Event) place() place { return place{e.Stream, e.Key, e.Sequence} }

// place is an event's in its stream.
type place struct {
	Stream   string `json:"stream"`
	Key      string `json:"key"`
	Sequence int64  `json:"sequence"`
}

func (p place) String() string {
	if p.Key == "" { // what is malformed has no place
		return "a message of " + p.Stream
	}
	return fmt.Sprintf("%s %s number %d", p.Stream, p.Key, p.Sequence)
}

// The states of an Event.
const (
	scheduled = "scheduled"
	unsent    = "unsent"
	sent      = "sent"
)

// Events returns the committed events in the order of their commits, and after
// them the scheduled ones in the order in which they are due. A Filter's Group
// does not concern them.
func (l *Ledger) Events(ctx context.Context, f Filter) ([]Event, error) {
	switch f.State {
	case "", scheduled, unsent, sent:
	default:
		return nil, fmt.Errorf("there are no events that are %q: want %s, %s or %s", f.State, scheduled, unsent, sent)
	}
	events, err := l.source.events(ctx, f)
	return events, l.failed(ctx, "list the events", err)
}

// local is a ledger in its database.
type local struct {
	service string
	db      *database.DB
}

func (l *local) String() string { return l.db.String() }

// where collects the conditions of a query.
type where struct {
	conditions []string
	args       []any
}

// is adds a condition, in which $ stands for the value; a zero value adds none.
func (w *where) is(condition string, value any) {
	switch v := value.(type) {
	case string:
		if v == "" {
			return
		}
	case int64:
		if v == 0 {
			return
		}
	case time.Time:
		if v.IsZero() {
			return
		}
		value = v.UnixMicro()
	}
	w.args = append(w.args, value)
	w.conditions = append(w.conditions, strings.ReplaceAll(condition, "$", fmt.Sprintf("$%d", len(w.args))))
}

func (w *where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// limit is the end of a query for the newest so many.
func limit(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" LIMIT %d", n)
}

func (l *local) events(ctx context.Context, f Filter) ([]Event, error) {
	// What is scheduled is read first: an event that becomes due meanwhile is in both, and not in neither.
	due, err := l.scheduled(ctx, f)
	if err != nil {
		return nil, err
	}
	all := []Event{} // an empty list is [] in JSON
	if f.State != scheduled {
		numbered, err := l.outbox(ctx, f)
		if err != nil {
			return nil, err
		}
		all = append(all, numbered...)
	}
	if len(due) == 0 {
		return all, nil
	}
	has := map[string]bool{}
	for _, e := range all {
		has[e.ID] = true
	}
	return append(all, slices.DeleteFunc(due, func(e Event) bool { return has[e.ID] })...), nil
}

// bodyOf is the column of an event's message, if it is asked for.
func bodyOf(f Filter) string {
	if f.Body {
		return "body"
	}
	return "''"
}

// outbox reads the events that have a number.
func (l *local) outbox(ctx context.Context, f Filter) ([]Event, error) {
	var w where
	w.is("event_id = $", f.ID)
	w.is("stream = $", f.Stream)
	w.is("key = $", f.Key)
	w.is("seq = $", f.Sequence)
	w.is("type = $", f.Type)
	w.is("at >= $", f.Since)
	switch f.State {
	case sent:
		w.conditions = append(w.conditions, "sent_at IS NOT NULL")
	case unsent:
		w.conditions = append(w.conditions, "sent_at IS NULL")
	}
	return database.QueryAll(ctx, l.db, l.scanEvent, `
SELECT stream, key, seq, event_id, type, at, sent_at, `+bodyOf(f)+` FROM (
    SELECT * FROM event_outbox`+w.String()+` ORDER BY id DESC`+limit(f.Limit)+`) e
ORDER BY id`, w.args...)
}

// scheduled reads the events that have none yet, if f picks any.
func (l *local) scheduled(ctx context.Context, f Filter) ([]Event, error) {
	if f.State != "" && f.State != scheduled || f.Sequence != 0 {
		return nil, nil
	}
	var w where
	w.is("event_id = $", f.ID)
	w.is("stream = $", f.Stream)
	w.is("key = $", f.Key)
	w.is("type = $", f.Type)
	return database.QueryAll(ctx, l.db, func(row database.Row) (Event, error) {
		e := Event{Service: l.service, State: scheduled}
		err := row.Scan(&e.Stream, &e.Key, &e.ID, &e.Type, micros{&e.Due}, &e.Body)
		return e, err
	}, `SELECT stream, key, event_id, type, due_at, `+bodyOf(f)+` FROM event_scheduled`+w.String()+` ORDER BY due_at, id`+limit(f.Limit), w.args...)
}

func (l *local) scanEvent(row database.Row) (Event, error) {
	e := Event{Service: l.service, State: sent}
	err := row.Scan(&e.Stream, &e.Key, &e.Sequence, &e.ID, &e.Type, micros{&e.At}, micros{&e.Sent}, &e.Body)
	if e.Sent.IsZero() {
		e.State = unsent
	}
	return e, err
}

// micros scans a column of microseconds since 1970, or null, into a time.
type micros struct{ into *time.Time }

func (m micros) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*m.into = time.Time{}
	case int64:
		*m.into = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a time is %T, want a number of microseconds", value)
	}
	return nil
}

// ledgerTables are what every ledger of this version has, and nothing else does.
const ledgerTables = "('event_outbox', 'event_cursor', 'event_process')"

// explain says what to do about a database that is no ledger.
func (l *Ledger) explain(ctx context.Context, err error) error {
	if here, ok := l.source.(*local); ok && err != nil {
		return here.explain(ctx, err)
	}
	return err
}

func (l *local) explain(ctx context.Context, err error) error {
	tables := "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN " + ledgerTables
	if l.db.Dialect() == database.Postgres {
		tables = "SELECT count(*) FROM pg_tables WHERE schemaname = ANY(current_schemas(false)) AND tablename IN " + ledgerTables
	}
	var n int
	if l.db.QueryRowContext(ctx, tables).Scan(&n) != nil {
		return err
	}
	switch n {
	case 0:
		return errors.New("it is no ledger: it has no tables event_*; name the database of a service")
	case 1, 2:
		return errors.New("its tables are of an older version; bring them up to date with `<service> migrate`")
	}
	return err
}
