package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Parked is a key in which a group has put events aside, and why: the event
// that holds the key up, and how many there are with those behind it.
type Parked struct {
	Service  string    `json:"service"`
	Group    string    `json:"group"`
	Stream   string    `json:"stream"`
	Key      string    `json:"key"`
	Events   int64     `json:"events"`   // that are put aside
	Oldest   time.Time `json:"oldest"`   // since when the first of them is
	Sequence int64     `json:"sequence"` // the number that holds the key up
	State    string    `json:"state"`    // of that number: retry, dead, early (it is about to be handled) or missing (it has not arrived)
	ID       string    `json:"id,omitempty"`
	Type     string    `json:"type,omitempty"`
	Attempts int       `json:"attempts,omitempty"`
	Error    string    `json:"error,omitempty"` // of the last attempt
	Next     time.Time `json:"next,omitzero"`   // when the next attempt is due
}

// missing is the state of a number that has not arrived.
const missing = "missing"

// Parked returns the keys in which something waits, those that have waited for
// longest first. A Filter's State is that of the number which holds the key up.
func (l *Ledger) Parked(ctx context.Context, f Filter) ([]Parked, error) {
	switch f.State {
	case "", retry, dead, early, missing:
	default:
		return nil, fmt.Errorf("nothing is parked as %q: want %s, %s, %s or %s", f.State, retry, dead, early, missing)
	}
	parked, err := l.source.parked(ctx, f)
	return parked, l.failed(ctx, "list what is parked", err)
}

func (l *local) parked(ctx context.Context, f Filter) ([]Parked, error) {
	var w where
	w.is("p.grp = $", f.Group)
	w.is("p.stream = $", f.Stream)
	w.is("p.key = $", f.Key)
	keys, err := database.QueryAll(ctx, l.db, func(row database.Row) (Parked, error) {
		p := Parked{Service: l.service}
		var message string
		err := row.Scan(&p.Group, &p.Stream, &p.Key, &p.Events, micros{&p.Oldest}, &p.Sequence, &p.State, &p.Attempts, &p.Error, micros{&p.Next}, &message)
		p.ID, p.Type = identify(message)
		p.Error = cause(p.Error, place{p.Stream, p.Key, p.Sequence})
		if p.State != retry {
			p.Next = time.Time{}
		}
		return p, err
	}, `
SELECT w.grp, w.stream, w.key, w.events, w.oldest, w.head,
    coalesce(h.state, 'missing'), coalesce(h.attempts, 0), coalesce(h.error, ''), h.due_at, coalesce(h.body, '')
FROM (
    SELECT p.grp, p.stream, p.key, count(*) AS events, min(p.at) AS oldest, max(c.seq) + 1 AS head
    FROM event_parked p JOIN event_cursor c ON c.grp = p.grp AND c.stream = p.stream AND c.key = p.key`+w.String()+`
    GROUP BY p.grp, p.stream, p.key) w
LEFT JOIN event_parked h ON h.grp = w.grp AND h.stream = w.stream AND h.key = w.key AND h.seq = w.head
ORDER BY w.oldest, w.grp, w.stream, w.key`, w.args...)
	if err != nil {
		return nil, err
	}
	picked := []Parked{}
	for _, p := range keys {
		switch {
		case f.ID != "" && p.ID != f.ID, f.State != "" && p.State != f.State, f.Type != "" && p.Type != f.Type,
			f.Sequence != 0 && p.Sequence != f.Sequence, p.Oldest.Before(f.Since):
		case f.Limit > 0 && len(picked) == f.Limit:
		default:
			picked = append(picked, p)
		}
	}
	return picked, nil
}
