package admin

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Progress is how far a Replay is.
type Progress struct {
	Total  int `json:"total"`  // events to send again
	Marked int `json:"marked"` // of them, those that were put back into the outbox
	Unsent int `json:"unsent"` // of those, what is not sent again yet
}

// replayChunk is how many events go back into the outbox at a time. In between
// the relay gets to send what is committed meanwhile.
const replayChunk = 1000

// replayPoll is how often a replay looks whether the outbox is drained.
const replayPoll = 100 * time.Millisecond

// replayStep is how long one step of a replay may take.
const replayStep = time.Minute

// Replay has a service send again what it committed to the Filter's Stream, and
// Key if that is set, since Filter.Since: to repair a broker that has lost it.
// Groups that had it already drop it as duplicates. It puts events back into
// the outbox a thousand at a time, and waits until they are sent; progress, if
// it is not nil, hears of every step. When ctx is done it stops and returns
// ctx's error; what is marked by then is sent all the same.
//
// Only what is still in the archive can be sent. It returns an error if no
// process of the service runs, for that is what sends.
func (l *Ledger) Replay(ctx context.Context, f Filter, progress func(Progress)) (Progress, error) {
	var p Progress
	if f.Stream == "" || f.Since.IsZero() {
		return p, errors.New("replay: say which stream, and from when on")
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	fail := func(err error) (Progress, error) {
		if ctx.Err() != nil {
			return p, ctx.Err()
		}
		return p, l.failed(ctx, "replay "+f.Stream, err)
	}
	// What is marked must be counted, so a step is not interrupted.
	step := func(c chunk) (chunk, error) {
		if ctx.Err() != nil {
			return c, ctx.Err()
		}
		whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), replayStep)
		defer cancel()
		return l.replay(whole, c)
	}
	c, err := step(chunk{Stream: f.Stream, Key: f.Key, Since: f.Since})
	if err != nil {
		return fail(err)
	}
	if c.Live == 0 {
		return p, fmt.Errorf("replay %s: no process of %s has been seen for a minute, and nobody else can send its events: start it first", f.Stream, l.service)
	}
	p.Total = c.Total
	progress(p)
	for p.Marked < p.Total {
		c.Limit = replayChunk
		if c, err = step(c); err != nil {
			return fail(err)
		}
		if c.Marked == 0 {
			break // the others are sent again already, or pruned
		}
		p.Marked += c.Marked
		for p.Unsent = c.Unsent; ; p.Unsent = c.Unsent {
			progress(p)
			if p.Unsent == 0 {
				break
			}
			select {
			case <-time.After(replayPoll):
			case <-ctx.Done():
				return fail(nil)
			}
			c.Limit = 0
			if c, err = step(c); err != nil {
				return fail(err)
			}
		}
	}
	return p, nil
}

// chunk is a part of a replay. The first has neither Until nor Limit, and only
// finds out what there is to do; those without a Limit only count.
type chunk struct {
	Stream string    `json:"stream"`
	Key    string    `json:"key,omitempty"`
	Since  time.Time `json:"since"`
	Until  int64     `json:"until"` // the last row, when the replay began
	After  int64     `json:"after"` // the row up to which the replay is
	Limit  int       `json:"limit"`

	Total  int `json:"total"`
	Marked int `json:"marked"` // by this chunk
	Unsent int `json:"unsent"` // up to After
	Live   int `json:"live"`   // processes of the service
}

func (l *local) replay(ctx context.Context, c chunk) (chunk, error) {
	var w where
	w.is("stream = $", c.Stream)
	w.is("key = $", c.Key)
	w.is("at >= $", c.Since)
	c.Marked = 0
	if c.Until == 0 {
		var until sql.NullInt64
		if err := l.db.QueryRowContext(ctx, `SELECT count(*), max(id) FROM event_outbox`+w.String()+` AND sent_at IS NOT NULL`, w.args...).Scan(&c.Total, &until); err != nil {
			return c, err
		}
		c.Until = until.Int64
		err := l.db.QueryRowContext(ctx, `SELECT count(*) FROM event_process WHERE seen_at >= $1`, time.Now().Add(-alive).UnixMicro()).Scan(&c.Live)
		return c, err
	}
	if c.Limit > 0 {
		if err := l.mark(ctx, &c, w); err != nil {
			return c, err
		}
	}
	w.is("id <= $", c.After)
	err := l.db.QueryRowContext(ctx, `SELECT count(*) FROM event_outbox`+w.String()+` AND sent_at IS NULL`, w.args...).Scan(&c.Unsent)
	return c, err
}

// mark puts the chunk's events back into the outbox.
func (l *local) mark(ctx context.Context, c *chunk, w where) error {
	w.is("id > $", c.After)
	w.is("id <= $", c.Until)
	var ids []int64
	err := l.db.InTx(ctx, func(tx *database.Tx) (err error) {
		ids, err = database.QueryAll(ctx, tx, func(row database.Row) (id int64, err error) {
			err = row.Scan(&id)
			return id, err
		}, fmt.Sprintf(`
UPDATE event_outbox SET sent_at = NULL WHERE id IN (
    SELECT id FROM event_outbox%s AND sent_at IS NOT NULL ORDER BY id LIMIT %d)
RETURNING id`, w.String(), c.Limit), w.args...)
		return err
	})
	if err != nil {
		return err
	}
	c.Marked = len(ids)
	for _, id := range ids {
		c.After = max(c.After, id)
	}
	l.tell(ctx, notifyOutbox)
	return nil
}
