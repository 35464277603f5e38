package event

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// skew is how far the clocks of two machines may be apart.
const skew = time.Minute

// sweep makes the attempts that are due and releases what a turn left behind,
// until stop is done. It is needed whatever the batches do: a batch that fails
// is done again without releases, and a process can end anywhere.
func (l *Listener) sweep(ctx, stop context.Context) {
	failed := backoff{first: 50 * time.Millisecond, most: 5 * time.Second}
	for {
		due, next, err := l.wakeUps(ctx)
		if err == nil && len(due) > 0 {
			err = l.sweepKeys(ctx, stop, due)
		}
		if stop.Err() != nil {
			return
		}
		if err != nil {
			l.log.WarnContext(ctx, "sweep: retries are late", "group", l.group, "err", err)
			if !failed.wait(stop, nil) {
				return
			}
			continue
		}
		failed.reset()
		if len(due) > 0 {
			continue
		}
		select {
		case <-time.After(next):
		case <-l.wake:
		case <-stop.Done():
			return
		}
	}
}

// wakeUps returns the keys that are due, or how long to wait for the next.
func (l *Listener) wakeUps(ctx context.Context) (due []rowKey, wait time.Duration, err error) {
	rows, err := l.db.QueryContext(ctx, l.sql.wakeUps, l.group)
	if err != nil {
		return nil, 0, fmt.Errorf("event: read what is due: %w", err)
	}
	defer rows.Close()
	now := time.Now()
	wait = poll
	for rows.Next() {
		var k rowKey
		var at int64
		if err := rows.Scan(&k.Stream, &k.Key, &at); err != nil {
			return nil, 0, fmt.Errorf("event: read what is due: %w", err)
		}
		if at > micros(now) {
			wait = min(wait, fromMicros(at).Sub(now))
			break
		}
		due = append(due, k)
	}
	if err := rows.Err(); err != nil {
		return nil, 0, fmt.Errorf("event: read what is due: %w", err)
	}
	return due, wait, nil
}

// sweepKeys works on as many keys at once as there are workers.
func (l *Listener) sweepKeys(ctx, stop context.Context, keys []rowKey) error {
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		all     error
		queue   = make(chan rowKey, len(keys))
	)
	for _, k := range keys {
		queue <- k
	}
	close(queue)
	for range l.cfg.Workers {
		workers.Go(func() {
			for k := range queue {
				if err := l.sweepKey(ctx, stop, k); err != nil {
					mu.Lock()
					all = errors.Join(all, err)
					mu.Unlock()
				}
			}
		})
	}
	workers.Wait()
	return all
}

// attempt is a parked event that the sweep has undertaken to handle.
type attempt struct {
	parkedRow
	event *envelope
	first bool // it has never been tried
}

// sweepKey makes attempts at one key until one fails or nothing is due.
func (l *Listener) sweepKey(ctx, stop context.Context, key rowKey) error {
	for stop.Err() == nil {
		a, err := l.claim(ctx, key)
		if err != nil || a == nil {
			return err
		}
		if err := l.attempt(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// claim looks at what is first in the key and settles what needs no handler.
// If a handler is needed, the attempt is recorded before it is made: one that
// ends the process is counted, too.
func (l *Listener) claim(ctx context.Context, key rowKey) (a *attempt, err error) {
	err = l.inTurn(ctx, []rowKey{key}, single, func(ctx context.Context, t *turn) error {
		a = nil
		c := t.cursors[key]
		c.changed = true
		if c.Parked == 0 {
			return nil
		}
		head := c.head()
		if head == nil {
			return t.missing(ctx, c)
		}
		if head.State == dead || head.State == retry && head.DueAt > t.now {
			return nil
		}
		e, err := decodeEnvelope(head.Stream, []byte(head.Body))
		if err != nil {
			return fmt.Errorf("event: parked %s %s number %d: %w", head.Stream, head.Key, head.Seq, err)
		}
		if kept, err := t.keepForOthers(ctx, e); err != nil {
			return err
		} else if kept {
			c.wakeAt(t.now + poll.Microseconds())
			return nil
		}
		first := head.State == early
		if !first && head.Attempts >= int64(l.cfg.Attempts) {
			l.sentence(ctx, head, e, fmt.Errorf("the process ended during attempt %d", head.Attempts))
			return t.update(ctx, head)
		}
		head.Attempts++
		head.State = retry
		head.DueAt = t.now + (l.cfg.HandlerTimeout + l.retryDelay(int(head.Attempts))).Microseconds()
		head.Error = fmt.Sprintf("attempt %d is under way, or its process ended", head.Attempts)
		if err := t.update(ctx, head); err != nil {
			return err
		}
		a = &attempt{parkedRow: *head, event: e, first: first}
		return nil
	})
	return a, err
}

// missing deals with a key whose next number has not arrived: a group that
// subscribed late adopts as the key's start what was sequenced before its time;
// any other gap is reported once it has lasted for long enough, and closes
// whenever the number arrives.
func (t *turn) missing(ctx context.Context, c *cursor) error {
	rows, err := t.tx.QueryContext(ctx, t.l.sql.firstParked, t.l.group, c.Stream, c.Key)
	if err != nil {
		return fmt.Errorf("event: read parked events: %w", err)
	}
	parked, err := scanParked(rows)
	if err != nil {
		return err
	}
	if len(parked) == 0 {
		return fmt.Errorf("event: %s %s of group %s: the cursor counts %d parked events, there are none", c.Stream, c.Key, t.l.group, c.Parked)
	}
	oldest := parked[0]
	if adopt, err := t.mayAdopt(c, oldest); err != nil {
		return err
	} else if adopt {
		at := oldest.At + t.l.cfg.adoptAfter().Microseconds()
		if at > t.now {
			c.wakeAt(at)
			return nil
		}
		t.counts.adopted++
		c.Seq = oldest.Seq - 1
		c.wakeAt(t.now)
		return nil
	}
	if at := oldest.At + t.l.cfg.GapTimeout.Microseconds(); at > t.now {
		c.wakeAt(at)
		return nil
	}
	t.counts.gaps++
	t.clear = append(t.clear, c.rowKey)
	t.letters = append(t.letters, letter{
		c.rowKey, c.Seq + 1, letterGap,
		fmt.Sprintf("number %d has not arrived; %d events wait for it since %s", c.Seq+1, c.Parked, fromMicros(oldest.At).Format(time.RFC3339)),
		"", t.now,
	})
	t.l.log.ErrorContext(ctx, "listener: a gap does not close; have the producer send the event again, or skip it",
		"group", t.l.group, "stream", c.Stream, "key", c.Key, "sequence", c.Seq+1, "waiting", c.Parked)
	c.WakeAt, c.fixed = nil, true
	return nil
}

// mayAdopt reports whether a key that is new to the group may begin with the
// parked event p. A time-out alone would drop events: with 1 on its way, 2
// would be adopted, and 1 then be a duplicate.
func (t *turn) mayAdopt(c *cursor, p parkedRow) (bool, error) {
	if c.Seq != 0 {
		return false, nil
	}
	e, err := decodeEnvelope(p.Stream, []byte(p.Body))
	if err != nil {
		return false, fmt.Errorf("event: parked %s %s number %d: %w", p.Stream, p.Key, p.Seq, err)
	}
	since := fromMicros(t.l.since[c.Stream])
	return !e.PreviousTime.IsZero() && e.PreviousTime.Before(since.Add(-skew)), nil
}

// wakeAt decides when the sweep should look at the key again.
func (c *cursor) wakeAt(us int64) { c.WakeAt, c.fixed = &us, true }

func (t *turn) update(ctx context.Context, p *parkedRow) error {
	if _, err := t.tx.ExecContext(ctx, t.l.sql.updateParked, t.l.group, p.Stream, p.Key, p.Seq, p.State, p.Attempts, p.DueAt, p.Error); err != nil {
		return fmt.Errorf("event: record an attempt: %w", err)
	}
	return nil
}

// attempt handles a claimed event and, if it was never tried, what it
// releases. Its failure is recorded.
func (l *Listener) attempt(ctx context.Context, a *attempt) error {
	extent := single
	if a.first {
		extent = everything
	}
	away := backoff{first: 20 * time.Millisecond, most: 2 * time.Second}
	for {
		err := l.inTurn(ctx, []rowKey{a.rowKey}, extent, func(ctx context.Context, t *turn) error {
			c := t.cursors[a.rowKey]
			if head := c.head(); head == nil || head.Seq != a.Seq {
				return nil // somebody else has dealt with it
			}
			if err := t.handle(ctx, c, a.event, int(a.Attempts)); err != nil {
				return err
			}
			return t.release(ctx, c)
		})
		if err == nil {
			return nil
		}
		if !l.isOurs(ctx, err) {
			if extent == everything {
				extent = single // the failure may be a released event's
				continue
			}
			err = l.recordFailure(ctx, a, err)
			if err == nil {
				return nil
			}
		}
		if !l.pause(ctx, &away, err) {
			return err
		}
	}
}

func (l *Listener) recordFailure(ctx context.Context, a *attempt, failure error) error {
	return l.inTurn(ctx, []rowKey{a.rowKey}, single, func(ctx context.Context, t *turn) error {
		c := t.cursors[a.rowKey]
		head := c.head()
		if head == nil || head.Seq != a.Seq || head.State != retry {
			return nil
		}
		l.sentence(ctx, head, a.event, failure)
		c.changed = true
		return t.update(ctx, head)
	})
}
