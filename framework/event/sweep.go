package event

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// skew is how far the clocks of two machines may be apart.
const skew = time.Minute

// sweep makes the attempts that are due and releases what a turn left behind,
// until stop is done. It is needed whatever the batches do: a batch that fails
// is done again without releases, and a process can end anywhere.
func (l *Listener) sweep(ctx, stop context.Context) {
	failed := backoff{first: 50 * time.Millisecond, most: 2 * time.Second}
	for {
		due, next, err := l.wakeUps(ctx)
		if err == nil && len(due) > 0 {
			err = l.sweepKeys(ctx, stop, due)
		}
		if stop.Err() != nil {
			return
		}
		if err != nil {
			l.log.WarnContext(ctx, "sweep: retries are late", "group", l.group, "error", err)
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

// leave has this member's sweep pass a key by for a while.
func (l *Listener) leave(key rowKey, pause time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left[key] = time.Now().Add(pause)
}

// leaveToOthers leaves the key of e, because another member handles e. If e has
// waited since long ago there may be none.
func (l *Listener) leaveToOthers(ctx context.Context, e *envelope, since time.Time) {
	pause := poll
	if time.Since(since) > l.cfg.GapTimeout {
		pause = l.cfg.GapTimeout
		l.log.WarnContext(ctx, "listener: an event waits for a member of the group that handles its type; run that version, or declare with Ignore that the group handles the type no longer",
			"group", l.group, "stream", e.Stream, "type", e.Type, "key", e.Key, "sequence", e.Sequence, "since", since)
	}
	l.leave(rowKey{e.Stream, e.Key}, pause)
}

// leaving forgets the keys whose while is over, and returns the others.
func (l *Listener) leaving() map[rowKey]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(l.left, func(_ rowKey, until time.Time) bool { return !until.After(now) })
	return maps.Clone(l.left)
}

// wakeUps returns the keys that are due, or how long to wait for the next.
func (l *Listener) wakeUps(ctx context.Context) (due []rowKey, wait time.Duration, err error) {
	left := l.leaving()
	rows, err := l.db.QueryContext(ctx, l.sql.wakeUps, l.group, 64+len(left))
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
		if until, ok := left[k]; ok {
			wait = min(wait, until.Sub(now))
			continue
		}
		due = append(due, k)
	}
	if err := rows.Err(); err != nil {
		return nil, 0, fmt.Errorf("event: read what is due: %w", err)
	}
	return due, wait, nil
}

// sweepKeys makes one attempt at each key that is due. First attempts share
// transactions, as a batch does; an event that has failed before is tried in
// one of its own, as many at once as there are workers.
func (l *Listener) sweepKeys(ctx, stop context.Context, keys []rowKey) error {
	claimed, err := l.claim(ctx, keys)
	if err != nil {
		return err
	}
	var first, again []*attempt
	for _, a := range claimed {
		if a.first {
			first = append(first, a)
		} else {
			again = append(again, a)
		}
	}
	if len(first) > 0 && l.workers.acquire(stop) {
		err := l.attempt(ctx, first, everything)
		l.workers.release()
		if err == nil {
			first = nil
		} else if ctx.Err() != nil {
			return err
		}
	}
	return l.attemptEach(ctx, stop, append(again, first...))
}

// attemptEach makes attempts in transactions of their own.
func (l *Listener) attemptEach(ctx, stop context.Context, attempts []*attempt) error {
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		all     error
		queue   = make(chan *attempt, len(attempts))
	)
	for _, a := range attempts {
		queue <- a
	}
	close(queue)
	for range min(l.workers.size(), len(attempts)) {
		workers.Go(func() {
			for a := range queue {
				if stop.Err() != nil || !l.workers.acquire(stop) {
					return
				}
				err := l.attemptOne(ctx, a)
				l.workers.release()
				if err != nil {
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

// claim looks at what is first in each key and settles what needs no handler.
// Where one is needed, the attempt is recorded before it is made: one that
// ends the process is counted, too. A key that somebody is working on is passed
// by for a moment: to wait for it would hold up the others.
func (l *Listener) claim(ctx context.Context, keys []rowKey) (claimed []*attempt, err error) {
	slices.SortFunc(keys, compareKeys)
	err = l.inTurn(ctx, keys, claiming, func(ctx context.Context, t *turn) error {
		claimed = nil
		for _, k := range keys {
			c, free := t.cursors[k]
			if !free {
				l.leave(k, poll/20)
				continue
			}
			a, err := t.claim(ctx, c)
			if err != nil {
				return err
			}
			if a != nil {
				claimed = append(claimed, a)
			}
		}
		return nil
	})
	return claimed, err
}

func (t *turn) claim(ctx context.Context, c *cursor) (*attempt, error) {
	c.changed = true
	if c.Parked == 0 {
		return nil, nil
	}
	head := c.head()
	if head == nil {
		return nil, t.missing(ctx, c)
	}
	if head.State == dead || head.State == retry && head.DueAt > t.now {
		return nil, nil
	}
	e, err := decodeEnvelope(head.Stream, []byte(head.Body))
	if err != nil {
		return nil, fmt.Errorf("event: parked %s %s number %d: %w", head.Stream, head.Key, head.Seq, err)
	}
	if kept, err := t.keepForOthers(ctx, e); err != nil {
		return nil, err
	} else if kept {
		// The cursor stays due, for the member that can handle it to see.
		c.changed = false
		t.l.leaveToOthers(ctx, e, fromMicros(head.At))
		return nil, nil
	}
	first := head.State == early
	if !first && head.Attempts >= int64(t.l.cfg.Attempts) {
		t.sentence(ctx, head, e, fmt.Errorf("the process ended during attempt %d", head.Attempts))
		t.update = append(t.update, *head)
		return nil, nil
	}
	head.Attempts++
	head.State = retry
	head.DueAt = t.now + t.l.retryDelay(int(head.Attempts)).Microseconds()
	head.Error = fmt.Sprintf("attempt %d is under way, or its process ended", head.Attempts)
	t.update = append(t.update, *head)
	return &attempt{parkedRow: *head, event: e, first: first}, nil
}

// missing deals with a key whose next number has not arrived: a group that
// subscribed late adopts as the key's start what was sequenced before its time;
// any other gap is reported once it has lasted for long enough, and closes
// whenever the number arrives.
func (t *turn) missing(ctx context.Context, c *cursor) error {
	parked, err := database.QueryAll(ctx, t.tx, scanParked, t.l.sql.firstParked, t.l.group, c.Stream, c.Key)
	if err != nil {
		return fmt.Errorf("event: read parked events: %w", err)
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

// attempt handles claimed events, and what they release, in one transaction.
func (l *Listener) attempt(ctx context.Context, attempts []*attempt, extent extent) error {
	keys := make([]rowKey, len(attempts))
	for i, a := range attempts {
		keys[i] = a.rowKey
	}
	return l.inTurn(ctx, keys, extent, func(ctx context.Context, t *turn) error {
		for _, a := range attempts {
			c := t.cursors[a.rowKey]
			if head := c.head(); head == nil || head.Seq != a.Seq {
				continue // somebody else has dealt with it
			}
			if err := t.handle(ctx, c, a.event, int(a.Attempts)); err != nil {
				return err
			}
			if err := t.release(ctx, c); err != nil {
				return err
			}
		}
		return nil
	})
}

// attemptOne handles one claimed event and nothing else, and records its
// failure.
func (l *Listener) attemptOne(ctx context.Context, a *attempt) error {
	away := backoff{first: 20 * time.Millisecond, most: 2 * time.Second}
	for {
		err := l.attempt(ctx, []*attempt{a}, single)
		if err != nil && !l.isOurs(ctx, err) {
			err = l.recordFailure(ctx, a, err)
		}
		if err == nil {
			return nil
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
		t.sentence(ctx, head, a.event, failure)
		c.changed = true
		t.update = append(t.update, *head)
		return nil
	})
}
