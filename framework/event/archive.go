package event

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// The outbox keeps what it has sent for a while: the archive. A broker can lose
// what it acknowledged, a relay can end between an acknowledgement and its mark,
// and one of several brokers can miss what another took. So what a lost
// connection puts in doubt, or a broker is known to miss, is sent again, and
// listeners drop what they know.
//
// What a broker misses is one moment in event_broker.missing_since: it may lack
// any event that was marked sent from then on. Whoever marks events sent and
// knows of a broker that did not acknowledge them, sets it; also a process that
// does not use that broker, as in the middle of a move. So does whoever loses a
// connection to that broker, and makes one. Whoever is connected to it has
// everything since then sent again, at once unless that was done a moment ago,
// and clears it. All hold the broker's row to their commit, so none overlooks
// another.

// resendMargin is how long before a connection is known to be lost its
// acknowledgements are not trusted: the time that it takes to find out, and
// what a broker that stopped hard may not have written.
const resendMargin = 30 * time.Second

// enter records that events are sent to the broker from now on, and that it may
// not have what was marked sent at or after since.
func (r *relay) enter(ctx context.Context, broker string, since time.Time) error {
	clear(r.unmarked) // acknowledged over a session that may have been lost: not to be marked
	return r.db.InTx(ctx, func(tx *database.Tx) error {
		if _, err := tx.ExecContext(ctx, r.sql.enterBroker, broker, micros(time.Now())); err != nil {
			return fmt.Errorf("event: enter the broker %s: %w", broker, err)
		}
		return r.doubt(ctx, tx, broker, since)
	})
}

// doubt records that the broker may not have what was marked sent at or after
// since.
func (r *relay) doubt(ctx context.Context, tx *database.Tx, broker string, since time.Time) error {
	if _, err := tx.ExecContext(ctx, r.sql.doubt, broker, micros(since)); err != nil {
		return fmt.Errorf("event: record what the broker %s may not have: %w", broker, err)
	}
	return nil
}

// recordDoubt is doubt at the loss of a session. If it fails, the process still
// knows, unless it ends before it is connected again: nothing to wait for.
func (r *relay) recordDoubt(ctx context.Context, broker string, since time.Time) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := r.db.InTx(ctx, func(tx *database.Tx) error { return r.doubt(ctx, tx, broker, since) })
	if err != nil {
		r.log.DebugContext(ctx, "events: what a lost connection puts in doubt is not recorded yet", "broker", broker, "error", err)
	}
}

// sendAgain makes unsent what the broker may not have.
func (r *relay) sendAgain(ctx context.Context, tx *database.Tx, broker string) error {
	var since sql.NullInt64
	if err := tx.QueryRowContext(ctx, r.sql.missing+r.dialect.forUpdate, broker).Scan(&since); err != nil {
		return fmt.Errorf("event: read what the broker %s may not have: %w", broker, err)
	}
	if !since.Valid {
		return nil // another process was faster
	}
	done, err := tx.ExecContext(ctx, r.sql.unsend, since.Int64)
	if err != nil {
		return fmt.Errorf("event: have events sent again: %w", err)
	}
	if _, err := tx.ExecContext(ctx, r.sql.clearMissing, broker); err != nil {
		return fmt.Errorf("event: have events sent again: %w", err)
	}
	if n, err := done.RowsAffected(); err == nil && n > 0 {
		tx.AfterCommit(func() {
			r.log.InfoContext(ctx, "relay: sending again what may not have arrived", "broker", broker, "events", n, "since", fromMicros(since.Int64))
		})
	}
	return nil
}

// repairs spaces out the repairs of a broker. Each has everything sent again
// since the first doubt, to all brokers. What it sends is itself in doubt if the
// session is lost soon after, so where sessions keep breaking, or a broker keeps
// missing events, a repair at every turn would send more each time.
type repairs struct {
	pause backoff
	last  time.Time
	next  time.Time
}

// repair has sent again what connected brokers may not have.
func (r *relay) repair(ctx context.Context) error {
	for _, out := range r.outlets {
		var since sql.NullInt64
		err := r.db.QueryRowContext(ctx, r.sql.missing, out.broker).Scan(&since)
		if errors.Is(err, sql.ErrNoRows) {
			// The database is not the one that we told of the broker: it was
			// restored, or another took over that had not heard of it.
			return r.enter(ctx, out.broker, time.Now().Add(-resendMargin))
		}
		if err != nil {
			return fmt.Errorf("event: read what the broker %s may not have: %w", out.broker, err)
		}
		p := r.repairs[out.broker]
		if p == nil {
			p = &repairs{pause: backoff{first: poll, most: resendMargin}}
			r.repairs[out.broker] = p
		}
		now := time.Now()
		if !since.Valid || now.Before(p.next) {
			continue
		}
		if now.Sub(p.last) > 2*resendMargin {
			p.pause.reset()
		}
		p.last, p.next = now, now.Add(p.pause.next())
		if err := r.markAll(ctx); err != nil {
			return err
		}
		err = r.db.InTx(ctx, func(tx *database.Tx) error { return r.sendAgain(ctx, tx, out.broker) })
		if err != nil {
			return err
		}
	}
	return nil
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

// pruneEvery is how often the archive is looked at for what it has kept for
// long enough.
const pruneEvery = time.Minute

// runPrune removes what the archive has kept for long enough, in small
// batches, until ctx is done.
func (r *relay) runPrune(ctx context.Context) {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if err := r.prune(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "archive: not pruned; tried again in a minute", "error", err)
		}
	}
}

func (r *relay) prune(ctx context.Context) error {
	const small = 1000
	before := micros(time.Now().Add(-r.cfg.Archive))
	if err := r.forgetBrokers(ctx, before); err != nil {
		return err
	}
	for _, statement := range []string{r.sql.prune, r.sql.pruneJournal, r.sql.pruneAttempts} {
		for n := int64(small); n == small; {
			err := r.db.InTx(ctx, func(tx *database.Tx) error {
				done, err := tx.ExecContext(ctx, statement, before, small)
				if err != nil {
					return fmt.Errorf("event: prune the archive: %w", err)
				}
				n, err = done.RowsAffected()
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// forgetBrokers forgets those that no process uses and that have missed events
// since before the archive begins: nobody can send them those any more, and to
// keep account of them costs every mark a little.
func (r *relay) forgetBrokers(ctx context.Context, before int64) error {
	return r.db.InTx(ctx, func(tx *database.Tx) error {
		if _, err := tx.ExecContext(ctx, r.sql.forgetBrokers, before, micros(time.Now().Add(-pruneEvery))); err != nil {
			return fmt.Errorf("event: forget brokers that nobody uses: %w", err)
		}
		return nil
	})
}
