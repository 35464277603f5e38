package event

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// relay moves what is committed from the outbox to the broker. Any number of
// relays may work on one outbox: two that send the same row do no harm.
type relay struct {
	*Outbox
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	// unmarked has what the broker acknowledged over the current session and
	// is not marked yet, by id. Where one process relays, marking can wait a
	// little: its disk write would compete with those that somebody waits for.
	unmarked map[int64]row
}

// resendMargin is how long before a connection is known to be lost its
// acknowledgements are not trusted: the time that it takes to find out, and
// what a broker that stopped hard may not have written.
const resendMargin = 30 * time.Second

// batchSize bounds a batch of the relay.
const batchSize = 500

// batchBytes is roughly the most that a batch holds in memory.
const batchBytes = 16 << 20

// markAfter is how long a mark may wait for others.
const markAfter = 10 * time.Millisecond

// poll is how often the relay, the schedule and the sweep look for what another
// process left, since this one wakes them at once for its own.
const poll = time.Second

// row is an event in the outbox.
type row struct {
	id     int64
	stream string
	body   []byte
}

// run sends what is committed, at once and in order of commit, until stop is
// done or the session is lost. It is called for one session at a time.
func (r *relay) run(ctx, stop context.Context, session Session) {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	var mark <-chan time.Time // fires when what is acknowledged should be marked
	r.unmarked = map[int64]row{}
	failed := backoff{first: 50 * time.Millisecond, most: 2 * time.Second}
	for {
		more, err := r.batch(ctx, session)
		if err != nil && stop.Err() == nil && !isLost(session) {
			r.log.WarnContext(ctx, "relay: some events were not sent; they stay in the outbox", "err", err)
			if !failed.wait(stop, session.Lost()) {
				return
			}
			continue
		}
		failed.reset()
		if more && err == nil {
			continue
		}
		if len(r.unmarked) > 0 && mark == nil {
			mark = time.After(markAfter)
		}
		select {
		case <-r.committed:
		case <-ticker.C:
		case <-mark:
			mark = nil
			if err := r.markAll(ctx); err != nil {
				r.log.WarnContext(ctx, "relay: events are sent but not marked; they are sent again", "err", err)
			}
		case <-stop.Done():
			return
		case <-session.Lost():
			// What was not marked is in doubt like the rest.
			return
		}
	}
}

// flush sends what is left in the outbox when the service stops. What it
// cannot send stays for the next process.
func (r *relay) flush(ctx context.Context, session Session) error {
	for {
		more, err := r.batch(ctx, session)
		if e := r.markAll(ctx); err != nil || e != nil {
			return errors.Join(err, e)
		}
		if !more {
			return nil
		}
	}
}

// batch sends the oldest unsent events and has those marked, in one statement,
// that the broker acknowledged. It reports whether there may be more. An error
// means that at least one was not acknowledged.
func (r *relay) batch(ctx context.Context, session Session) (more bool, err error) {
	if !r.dialect.locks {
		rows, more, err := r.unsent(ctx, r.db)
		if err != nil {
			return false, err
		}
		rows = slices.DeleteFunc(rows, func(o row) bool { _, sent := r.unmarked[o.id]; return sent })
		if len(rows) > 0 {
			var acked []row
			acked, err = r.send(ctx, session, rows)
			for _, o := range acked {
				r.unmarked[o.id] = o
			}
		}
		if more {
			err = errors.Join(err, r.markAll(ctx))
		}
		return more, err
	}
	// The rows stay locked while they are on their way, so that the relays of
	// other replicas take others; no longer than one batch, because a
	// transaction that is open holds up vacuum.
	var sendErr error
	err = r.db.InTx(ctx, func(tx *database.Tx) error {
		var rows []row
		if rows, more, err = r.unsent(ctx, tx); err != nil || len(rows) == 0 {
			return err
		}
		var acked []row
		acked, sendErr = r.send(ctx, session, rows)
		return r.mark(ctx, tx, acked)
	})
	return more, errors.Join(sendErr, err)
}

// unsent reads the oldest unsent events, and whether there are more than fit
// into a batch.
func (r *relay) unsent(ctx context.Context, q database.Querier) (rows []row, more bool, err error) {
	found, err := q.QueryContext(ctx, r.sql.unsent, batchSize)
	if err != nil {
		return nil, false, fmt.Errorf("event: read the outbox: %w", err)
	}
	defer found.Close()
	size := 0
	for size < batchBytes && found.Next() {
		var o row
		if err := found.Scan(&o.id, &o.stream, &o.body); err != nil {
			return nil, false, fmt.Errorf("event: read the outbox: %w", err)
		}
		rows = append(rows, o)
		size += len(o.body)
	}
	if err := found.Err(); err != nil {
		return nil, false, fmt.Errorf("event: read the outbox: %w", err)
	}
	return rows, len(rows) == batchSize || size >= batchBytes, nil
}

// send publishes the rows side by side and returns those that were
// acknowledged. It ends when every one is acknowledged or given up.
func (r *relay) send(ctx context.Context, session Session, rows []row) (acked []row, err error) {
	start := time.Now()
	var (
		mu      sync.Mutex
		pending sync.WaitGroup
	)
	for _, o := range rows {
		pending.Add(1)
		session.Publish(ctx, o.stream, o.body, func(e error) {
			mu.Lock()
			if e == nil {
				acked = append(acked, o)
			} else if err == nil {
				err = fmt.Errorf("event: send on %s: %w", o.stream, e)
			}
			mu.Unlock()
			pending.Done()
		})
	}
	pending.Wait()
	r.metrics.sent(ctx, rows, len(acked), start)
	return acked, err
}

// markAll marks what is acknowledged and not marked yet.
func (r *relay) markAll(ctx context.Context) error {
	if len(r.unmarked) == 0 {
		return nil
	}
	err := r.db.InTx(ctx, func(tx *database.Tx) error {
		return r.mark(ctx, tx, slices.Collect(maps.Values(r.unmarked)))
	})
	if err == nil {
		clear(r.unmarked)
	}
	return err
}

// mark records that rows are sent: only after the broker has said so.
func (r *relay) mark(ctx context.Context, tx *database.Tx, rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	type id struct {
		ID int64 `json:"id"`
	}
	ids := make([]id, len(rows))
	for i, o := range rows {
		ids[i].ID = o.id
	}
	if _, err := tx.ExecContext(ctx, r.sql.markSent, asRows(ids), micros(time.Now())); err != nil {
		return fmt.Errorf("event: mark events sent: %w", err)
	}
	return nil
}

// doubtSince has everything sent again that was marked sent at or after t. It
// is durable before anything else is sent.
//
// A broker can lose what it acknowledged, and a relay can end between an
// acknowledgement and its mark. So what a lost connection puts in doubt is sent
// again, and listeners drop what they know.
func (r *relay) doubtSince(ctx context.Context, t time.Time) error {
	return r.db.InTx(ctx, func(tx *database.Tx) error {
		done, err := tx.ExecContext(ctx, r.sql.doubt, micros(t))
		if err != nil {
			return fmt.Errorf("event: have events sent again: %w", err)
		}
		if n, err := done.RowsAffected(); err == nil && n > 0 {
			r.log.InfoContext(ctx, "relay: sending again what may not have arrived", "events", n)
		}
		return nil
	})
}

// lastSent returns when an event was last marked sent, by any relay: what a
// process that starts must take as the moment when its predecessor ended. False
// if none was.
func (r *relay) lastSent(ctx context.Context) (time.Time, bool, error) {
	var at sql.NullInt64
	if err := r.db.QueryRowContext(ctx, r.sql.lastSent).Scan(&at); err != nil {
		return time.Time{}, false, fmt.Errorf("event: read the time of the last sending: %w", err)
	}
	return fromMicros(at.Int64), at.Valid, nil
}

// runSchedule publishes scheduled events when they are due, until ctx is done.
// It needs no broker.
func (r *relay) runSchedule(ctx context.Context) {
	failed := backoff{first: 50 * time.Millisecond, most: 5 * time.Second}
	for {
		more, err := r.publishDue(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "schedule: due events are late", "err", err)
			if !failed.wait(ctx, nil) {
				return
			}
			continue
		}
		failed.reset()
		if more {
			continue
		}
		wait := poll
		if due, ok, err := r.nextDue(ctx); err == nil && ok {
			wait = min(max(time.Until(due), 0), poll)
		}
		select {
		case <-time.After(wait):
		case <-r.scheduled:
		case <-ctx.Done():
			return
		}
	}
}

// runPrune removes what the archive has kept for long enough, in small
// batches, until ctx is done. Several processes may do so.
func (r *relay) runPrune(ctx context.Context) {
	const small = 1000
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		before := micros(time.Now().Add(-r.cfg.Archive))
		for _, statement := range []string{r.sql.prune, r.sql.pruneJournal} {
			for full := true; full; {
				err := r.db.InTx(ctx, func(tx *database.Tx) error {
					done, err := tx.ExecContext(ctx, statement, before, small)
					if err != nil {
						return fmt.Errorf("event: prune the archive: %w", err)
					}
					n, err := done.RowsAffected()
					full = n == small
					return err
				})
				if err != nil {
					full = false
					if ctx.Err() == nil {
						r.log.WarnContext(ctx, "archive: not pruned; tried again in a minute", "err", err)
					}
				}
			}
		}
	}
}

func isLost(s Session) bool {
	select {
	case <-s.Lost():
		return true
	default:
		return false
	}
}
