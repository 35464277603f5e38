package event

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Letter is something that a listener group cannot deal with by itself.
type Letter struct {
	Group    string    `json:"group"`
	Stream   string    `json:"stream"`
	Key      string    `json:"key,omitempty"`
	Sequence int64     `json:"sequence,omitempty"`
	Kind     string    `json:"kind"` // dead, gap, fork or malformed
	Attempts int       `json:"attempts,omitempty"`
	Error    string    `json:"error"`
	Body     string    `json:"body,omitempty"` // the message as it came
	At       time.Time `json:"at"`
}

func (l Letter) String() string {
	return fmt.Sprintf("%s letter of group %s, stream %s, key %s, number %d", l.Kind, l.Group, l.Stream, l.Key, l.Sequence)
}

// DeadLetters returns the letters of all listener groups in the service's
// database, oldest first.
func DeadLetters(ctx context.Context, db *database.DB) ([]Letter, error) {
	letters, err := database.QueryAll(ctx, db, func(row database.Row) (l Letter, err error) {
		var at int64
		err = row.Scan(&l.Group, &l.Stream, &l.Key, &l.Sequence, &l.Kind, &l.Attempts, &l.Error, &l.Body, &at)
		l.At = fromMicros(at)
		return l, err
	}, newStatements(dialectOf(db)).deadLetters)
	if err != nil {
		return nil, fmt.Errorf("event: read dead letters: %w", err)
	}
	return letters, nil
}

// Redrive has a dead event tried again from its first attempt; what waits
// behind it follows in order. It returns an error if the event is not dead any
// more, or the letter is of another kind.
func Redrive(ctx context.Context, db *database.DB, at Letter) error {
	if at.Kind != dead {
		return fmt.Errorf("event: redrive %v: only a dead event can be tried again; for a gap, have the producer send the event again", at)
	}
	s := newStatements(dialectOf(db))
	return db.InTx(ctx, func(tx *database.Tx) error {
		seq, _, err := lockOne(ctx, tx, s, at)
		if err != nil {
			return fmt.Errorf("event: redrive %v: %w", at, err)
		}
		now := micros(time.Now())
		done, err := tx.ExecContext(ctx, s.redrive, at.Group, at.Stream, at.Key, at.Sequence, now)
		if err != nil {
			return fmt.Errorf("event: redrive %v: %w", at, err)
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 || seq+1 != at.Sequence {
			return errors.Join(err, fmt.Errorf("event: redrive %v: it is not dead; the group has applied %d", at, seq))
		}
		if _, err := tx.ExecContext(ctx, s.wakeKey, at.Group, at.Stream, at.Key, now); err != nil {
			return fmt.Errorf("event: redrive %v: %w", at, err)
		}
		return nil
	})
}

// Skip gives a dead event or a gap up: the group goes on with the key's next
// event. A letter of another kind holds nothing up and is removed. It returns
// an error if the event does not hold its key up, is not dead any more, or has
// arrived after all.
func Skip(ctx context.Context, db *database.DB, at Letter) error {
	s := newStatements(dialectOf(db))
	return db.InTx(ctx, func(tx *database.Tx) error {
		if at.Kind == dead || at.Kind == letterGap {
			if err := skip(ctx, tx, s, at); err != nil {
				return fmt.Errorf("event: skip %v: %w", at, err)
			}
		}
		if _, err := tx.ExecContext(ctx, s.dismiss, at.Group, at.Stream, at.Key, at.Sequence, at.Kind); err != nil {
			return fmt.Errorf("event: skip %v: %w", at, err)
		}
		return nil
	})
}

// skip only advances the cursor. It has no handlers, so what waits behind is
// left to the sweep.
func skip(ctx context.Context, tx *database.Tx, s *statements, at Letter) error {
	seq, parked, err := lockOne(ctx, tx, s, at)
	if err != nil {
		return err
	}
	if seq+1 != at.Sequence {
		return fmt.Errorf("it does not hold its key up; the group has applied %d", seq)
	}
	var state string // empty if it has not arrived
	err = tx.QueryRowContext(ctx, s.parkedState, at.Group, at.Stream, at.Key, at.Sequence).Scan(&state)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if at.Kind == dead && state != dead || at.Kind == letterGap && state != "" {
		return errors.New("it was redriven, or has arrived, meanwhile")
	}
	done, err := tx.ExecContext(ctx, s.dropParked, at.Group, at.Stream, at.Key, at.Sequence)
	if err != nil {
		return err
	}
	n, err := done.RowsAffected()
	if err != nil {
		return err
	}
	var wake *int64
	if parked -= n; parked > 0 {
		now := micros(time.Now())
		wake = &now
	}
	_, err = tx.ExecContext(ctx, s.skip, at.Group, at.Stream, at.Key, at.Sequence, parked, wake)
	return err
}

func lockOne(ctx context.Context, tx *database.Tx, s *statements, at Letter) (seq, parked int64, err error) {
	err = tx.QueryRowContext(ctx, s.lockOne, at.Group, at.Stream, at.Key).Scan(&seq, &parked)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("group %s knows no key %s in %s", at.Group, at.Key, at.Stream)
	}
	return seq, parked, err
}
