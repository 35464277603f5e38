package admin

import (
	"context"
	"slices"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// books are what a ledger knows of events, but for the events themselves.
type books struct {
	Service       string         `json:"service"`
	Journal       bool           `json:"journal"` // it has one
	Cursors       []cursor       `json:"cursors"`
	Effects       []effect       `json:"effects"` // in the order of their transactions
	Attempts      []attempt      `json:"attempts"`
	Aside         []aside        `json:"aside"`
	Letters       []Letter       `json:"letters"`
	Subscriptions []subscription `json:"subscriptions"`
	Types         []handled      `json:"types"`
	Sequences     []sequence     `json:"sequences"`
	Brokers       []broker       `json:"brokers"`
}

type (
	// cursor is how far a group is in a key.
	cursor struct {
		lane
		Applied int64  `json:"applied"`
		ID      string `json:"id,omitempty"` // of the event applied last
	}
	// effect is an event that was applied, if the service keeps a journal.
	effect struct {
		Group string `json:"group"`
		place
		ID   string    `json:"id"`
		Type string    `json:"type"`
		At   time.Time `json:"at"`
	}
	// attempt is one that failed or, as number 0, what an operator did.
	attempt struct {
		Group string `json:"group"`
		place
		ID     string    `json:"id,omitempty"`
		Number int       `json:"number"`
		Error  string    `json:"error"`
		At     time.Time `json:"at"`
	}
	// aside is an event that waits in a group.
	aside struct {
		Group string `json:"group"`
		place
		ID       string    `json:"id,omitempty"`
		Type     string    `json:"type,omitempty"`
		State    string    `json:"state"`
		Attempts int       `json:"attempts"`
		Error    string    `json:"error,omitempty"`
		Due      time.Time `json:"due"`
		At       time.Time `json:"at"`
	}
	// subscription is that of a group to a stream.
	subscription struct {
		Group  string    `json:"group"`
		Stream string    `json:"stream"`
		Since  time.Time `json:"since"`
	}
	// handled is a type that a group handles.
	handled struct {
		Group  string `json:"group"`
		Stream string `json:"stream"`
		Type   string `json:"type"`
	}
	// sequence is the last number given in a key.
	sequence struct {
		Stream string    `json:"stream"`
		Key    string    `json:"key"`
		Last   int64     `json:"last"`
		At     time.Time `json:"at,omitzero"`
	}
	// broker is one that the outbox is sent to.
	broker struct {
		Name         string    `json:"name"`
		Since        time.Time `json:"since"`
		MissingSince time.Time `json:"missingSince,omitzero"`
	}
)

// lane is a key of a stream as a group sees it; for its producer the group is
// empty.
type lane struct {
	Group  string `json:"group"`
	Stream string `json:"stream"`
	Key    string `json:"key"`
}

// skew is how far the clocks of two machines may be apart.
const skew = time.Minute

// books reads the cursors before the journal: what a cursor has passed is in the
// journal that is read after it, also while the service runs.
func (l *local) books(ctx context.Context, f Filter) (*books, error) {
	b := &books{Service: l.service}
	event := func(id, since string) (w where) {
		w.is(id, f.ID)
		w.is("grp = $", f.Group)
		w.is("stream = $", f.Stream)
		w.is("key = $", f.Key)
		w.is("seq = $", f.Sequence)
		if !f.Since.IsZero() {
			w.is(since, f.Since.Add(-skew))
		}
		return w
	}
	var key, group, stream where
	key.is("event_id = $", f.ID)
	for _, w := range []*where{&key, &group} {
		w.is("grp = $", f.Group)
		w.is("stream = $", f.Stream)
	}
	key.is("key = $", f.Key)
	stream.is("stream = $", f.Stream)
	stream.is("key = $", f.Key)

	r := reader{ctx: ctx, db: l.db}
	b.Cursors = read(&r, scanCursor, `SELECT grp, stream, key, seq, event_id FROM event_cursor`, key, "")
	b.Effects = read(&r, func(row database.Row) (e effect, err error) {
		err = row.Scan(&e.Group, &e.Stream, &e.Key, &e.Sequence, &e.ID, &e.Type, micros{&e.At})
		return e, err
	}, `SELECT grp, stream, key, seq, event_id, type, applied_at FROM event_journal`, event("event_id = $", "applied_at >= $"), ` ORDER BY id`)
	for _, any := range read(&r, func(row database.Row) (any bool, err error) {
		err = row.Scan(&any)
		return any, err
	}, `SELECT EXISTS (SELECT 1 FROM event_journal)`, where{}, "") {
		b.Journal = any
	}
	b.Attempts = read(&r, func(row database.Row) (a attempt, err error) {
		err = row.Scan(&a.Group, &a.Stream, &a.Key, &a.Sequence, &a.ID, &a.Number, &a.Error, micros{&a.At})
		a.Error = cause(a.Error, a.place)
		return a, err
	}, `SELECT grp, stream, key, seq, event_id, attempt, error, at FROM event_attempt`, event("event_id = $", "at >= $"), ` ORDER BY id`)
	b.Aside = read(&r, func(row database.Row) (a aside, err error) {
		var message string
		err = row.Scan(&a.Group, &a.Stream, &a.Key, &a.Sequence, &a.State, &a.Attempts, &a.Error, &message, micros{&a.Due}, micros{&a.At})
		a.ID, a.Type = identify(message)
		a.Error = cause(a.Error, a.place)
		return a, err
	}, `SELECT grp, stream, key, seq, state, attempts, error, body, due_at, at FROM event_parked`, event("body LIKE '%' || CAST($ AS TEXT) || '%'", "at >= $"), ` ORDER BY stream, key, seq, grp`)
	if f.ID != "" { // it stood somewhere in the message
		b.Aside = slices.DeleteFunc(b.Aside, func(a aside) bool { return a.ID != f.ID })
	}
	b.Subscriptions = read(&r, scanSubscription, `SELECT grp, stream, since FROM event_subscription`, group, ` ORDER BY grp, stream`)
	b.Types = read(&r, func(row database.Row) (h handled, err error) {
		err = row.Scan(&h.Group, &h.Stream, &h.Type)
		return h, err
	}, `SELECT grp, stream, type FROM event_type`, group, ` ORDER BY grp, stream, type`)
	b.Sequences = read(&r, scanSequence, `SELECT stream, key, last, at FROM event_sequence`, stream, ` ORDER BY stream, key`)
	b.Brokers = read(&r, scanBroker, `SELECT broker, since, missing_since FROM event_broker`, where{}, ` ORDER BY broker`)
	if r.err != nil {
		return nil, r.err
	}
	var err error
	b.Letters, err = l.letters(ctx, Filter{ID: f.ID, Group: f.Group, Stream: f.Stream, Key: f.Key, Sequence: f.Sequence})
	return b, err
}

func scanCursor(row database.Row) (c cursor, err error) {
	err = row.Scan(&c.Group, &c.Stream, &c.Key, &c.Applied, &c.ID)
	return c, err
}

func scanSubscription(row database.Row) (s subscription, err error) {
	err = row.Scan(&s.Group, &s.Stream, micros{&s.Since})
	return s, err
}

func scanSequence(row database.Row) (s sequence, err error) {
	err = row.Scan(&s.Stream, &s.Key, &s.Last, micros{&s.At})
	return s, err
}

func scanBroker(row database.Row) (b broker, err error) {
	err = row.Scan(&b.Name, micros{&b.Since}, micros{&b.MissingSince})
	return b, err
}

// reader reads list after list, until one fails.
type reader struct {
	ctx context.Context
	db  *database.DB
	err error
}

func read[T any](r *reader, scan func(database.Row) (T, error), query string, w where, order string) (list []T) {
	if r.err == nil {
		list, r.err = database.QueryAll(r.ctx, r.db, scan, query+w.String()+order, w.args...)
	}
	return list
}
