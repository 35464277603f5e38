package admin

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Letter is something that a listener group cannot deal with by itself.
type Letter struct {
	Service  string    `json:"service,omitempty"`
	Group    string    `json:"group"`
	Stream   string    `json:"stream"`
	Key      string    `json:"key,omitempty"`
	Sequence int64     `json:"sequence,omitempty"`
	ID       string    `json:"id,omitempty"` // of the event, if it has arrived and is one
	Kind     string    `json:"kind"`         // dead, gap, fork or malformed
	Attempts int       `json:"attempts,omitempty"`
	Error    string    `json:"error"`
	Body     string    `json:"body,omitempty"` // the message as it came
	At       time.Time `json:"at"`
}

func (l Letter) String() string {
	if l.Key == "" { // what is malformed has no place
		return fmt.Sprintf("%s letter of group %s, stream %s", l.Kind, l.Group, l.Stream)
	}
	return fmt.Sprintf("%s letter of group %s, stream %s, key %s, number %d", l.Kind, l.Group, l.Stream, l.Key, l.Sequence)
}

// The kinds of a Letter.
const (
	dead      = "dead"      // every attempt failed
	gap       = "gap"       // a number that does not arrive
	fork      = "fork"      // a number that was given to two events
	malformed = "malformed" // a message that is no event
)

// States of an event that is put aside, besides dead.
const (
	early = "early" // never tried; waits for a predecessor
	retry = "retry" // waits for its next attempt
)

// What the service's processes are told to look at.
const (
	notifyOutbox = "outbox"
	notifyParked = "parked"
)

// refusal says why something cannot be done as things are.
type refusal string

func (r refusal) Error() string { return string(r) }

// tell wakes the service's processes. It is a hint: those that do not hear it
// look within a second anyway.
func (l *local) tell(ctx context.Context, what string) {
	_ = l.db.Notify(ctx, "turnstile_event", what)
}

// Letters returns the dead letters of all listener groups in the service's
// database, oldest first. A Filter's State picks a kind.
func (l *Ledger) Letters(ctx context.Context, f Filter) ([]Letter, error) {
	switch f.State {
	case "", dead, gap, fork, malformed:
	default:
		return nil, fmt.Errorf("there is no kind of letter %q: want %s, %s, %s or %s", f.State, dead, gap, fork, malformed)
	}
	letters, err := l.source.letters(ctx, f)
	return letters, l.failed(ctx, "list the dead letters", err)
}

// Redrive has a dead event tried again from its first attempt; what waits
// behind it follows in order. It returns an error if the event is not dead any
// more, or the letter is of another kind.
func (l *Ledger) Redrive(ctx context.Context, at Letter) error {
	if at.Kind != dead {
		return fmt.Errorf("redrive the %v: only a dead event can be tried again; for a gap, have its producer send the event again: `turnstile events replay`", at)
	}
	return l.failed(ctx, fmt.Sprintf("redrive the %v", at), l.source.redrive(ctx, at))
}

// Skip gives a dead event or a gap up: the group goes on with the key's next
// event. A letter of another kind holds nothing up and is removed. It returns
// an error if the event does not hold its key up, is not dead any more, or has
// arrived after all.
func (l *Ledger) Skip(ctx context.Context, at Letter) error {
	return l.failed(ctx, fmt.Sprintf("skip the %v", at), l.source.skip(ctx, at))
}

func (l *local) letters(ctx context.Context, f Filter) ([]Letter, error) {
	var w where
	w.is("grp = $", f.Group)
	w.is("stream = $", f.Stream)
	w.is("key = $", f.Key)
	w.is("seq = $", f.Sequence)
	w.is("kind = $", f.State)
	w.is("at >= $", f.Since)
	letters, err := database.QueryAll(ctx, l.db, func(row database.Row) (Letter, error) {
		at := Letter{Service: l.service}
		err := row.Scan(&at.Group, &at.Stream, &at.Key, &at.Sequence, &at.Kind, &at.Attempts, &at.Error, &at.Body, micros{&at.At})
		at.ID, _ = identify(at.Body)
		at.Error = cause(at.Error, place{at.Stream, at.Key, at.Sequence})
		return at, err
	}, `
SELECT grp, stream, key, seq, kind, attempts, error, body, at FROM (
    SELECT grp, stream, key, seq, 'dead' AS kind, attempts, error, body, at FROM event_parked WHERE state = 'dead'
    UNION ALL
    SELECT grp, stream, key, seq, kind, 0, error, body, at FROM event_letter) l`+w.String()+`
ORDER BY at, grp, stream, key, seq`, w.args...)
	picked := []Letter{}
	for _, at := range letters {
		if f.ID == "" || at.ID == f.ID {
			picked = append(picked, at)
		}
	}
	if f.Limit > 0 && len(picked) > f.Limit {
		picked = picked[len(picked)-f.Limit:]
	}
	return picked, err
}

// identify reads the id and the type of an event from its message; they are
// empty if it is none.
func identify(message string) (id, typ string) {
	var e struct{ ID, Type string }
	if json.Unmarshal([]byte(message), &e) != nil {
		return "", ""
	}
	return e.ID, e.Type
}

// cause is the error of a handler, without the words in front that say which
// event it was: that stands beside it.
func cause(text string, at place) string {
	if _, after, ok := strings.Cut(text, fmt.Sprintf(" (%s %s, number %d): ", at.Stream, at.Key, at.Sequence)); ok && strings.HasPrefix(text, "event: handle ") {
		return after
	}
	return text
}

func (l *local) forUpdate() string {
	if l.db.Dialect() == database.Postgres {
		return " FOR UPDATE"
	}
	return "" // one writer
}

func (l *local) redrive(ctx context.Context, at Letter) error {
	err := l.db.InTx(ctx, func(tx *database.Tx) error {
		seq, _, err := l.lock(ctx, tx, at)
		if err != nil {
			return err
		}
		now := time.Now().UnixMicro()
		err = tx.QueryRowContext(ctx, `
UPDATE event_parked SET state = 'retry', attempts = 0, due_at = $5
WHERE grp = $1 AND stream = $2 AND key = $3 AND seq = $4 AND state = 'dead' RETURNING body`,
			at.Group, at.Stream, at.Key, at.Sequence, now).Scan(&at.Body)
		if errors.Is(err, sql.ErrNoRows) || err == nil && seq+1 != at.Sequence {
			return refusal(fmt.Sprintf("it is not dead; the group has applied %d", seq))
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE event_cursor SET wake_at = $4 WHERE grp = $1 AND stream = $2 AND key = $3`, at.Group, at.Stream, at.Key, now); err != nil {
			return err
		}
		return l.record(ctx, tx, at, redriven, now)
	})
	if err == nil {
		l.tell(ctx, notifyParked)
	}
	return err
}

func (l *local) skip(ctx context.Context, at Letter) error {
	err := l.db.InTx(ctx, func(tx *database.Tx) error {
		if at.Kind == dead || at.Kind == gap {
			if err := l.pass(ctx, tx, at); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM event_letter WHERE grp = $1 AND stream = $2 AND key = $3 AND seq = $4 AND kind = $5`,
			at.Group, at.Stream, at.Key, at.Sequence, at.Kind)
		return err
	})
	if err == nil {
		l.tell(ctx, notifyParked)
	}
	return err
}

// pass only advances the cursor. There are no handlers here, so what waits
// behind is left to the service's sweep.
func (l *local) pass(ctx context.Context, tx *database.Tx, at Letter) error {
	seq, parked, err := l.lock(ctx, tx, at)
	if err != nil {
		return err
	}
	if seq+1 != at.Sequence {
		return refusal(fmt.Sprintf("it does not hold its key up; the group has applied %d", seq))
	}
	var state string // empty if it has not arrived
	err = tx.QueryRowContext(ctx, `SELECT state, body FROM event_parked WHERE grp = $1 AND stream = $2 AND key = $3 AND seq = $4`,
		at.Group, at.Stream, at.Key, at.Sequence).Scan(&state, &at.Body)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if at.Kind == dead && state != dead || at.Kind == gap && state != "" {
		return refusal("it was redriven, or has arrived, meanwhile")
	}
	done, err := tx.ExecContext(ctx, `DELETE FROM event_parked WHERE grp = $1 AND stream = $2 AND key = $3 AND seq = $4`, at.Group, at.Stream, at.Key, at.Sequence)
	if err != nil {
		return err
	}
	n, err := done.RowsAffected()
	if err != nil {
		return err
	}
	now := time.Now().UnixMicro()
	var wake *int64
	if parked -= n; parked > 0 {
		wake = &now
	}
	if _, err := tx.ExecContext(ctx, `
UPDATE event_cursor SET seq = $4, event_id = '', parked = $5, wake_at = $6
WHERE grp = $1 AND stream = $2 AND key = $3`, at.Group, at.Stream, at.Key, at.Sequence, parked, wake); err != nil {
		return err
	}
	return l.record(ctx, tx, at, skipped, now)
}

// What operators did. It is recorded among the attempts, as number 0, so that
// the history of an event tells it.
const (
	redriven = "redriven by an operator"
	skipped  = "skipped by an operator"
)

func (l *local) record(ctx context.Context, tx *database.Tx, at Letter, what string, now int64) error {
	id, _ := identify(at.Body)
	_, err := tx.ExecContext(ctx, `INSERT INTO event_attempt (grp, stream, key, seq, event_id, attempt, error, at) VALUES ($1, $2, $3, $4, $5, 0, $6, $7)`,
		at.Group, at.Stream, at.Key, at.Sequence, id, what, now)
	return err
}

// lock takes the cursor's row.
func (l *local) lock(ctx context.Context, tx *database.Tx, at Letter) (seq, parked int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT seq, parked FROM event_cursor WHERE grp = $1 AND stream = $2 AND key = $3`+l.forUpdate(), at.Group, at.Stream, at.Key).Scan(&seq, &parked)
	if errors.Is(err, sql.ErrNoRows) {
		err = refusal(fmt.Sprintf("group %s knows no key %s in %s", at.Group, at.Key, at.Stream))
	}
	return seq, parked, err
}
