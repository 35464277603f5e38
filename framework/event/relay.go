package event

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// relay moves what is committed from the outbox to the brokers. Any number of
// relays may work on one outbox: two that send the same row do no harm.
//
// With several brokers, each event is sent to every one that is connected, and
// is sent when one of them has acknowledged it: while a broker is away the
// others carry on. What a broker did not get is remembered in the database and
// sent again when it can be (see archive.go).
type relay struct {
	*Outbox
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	name    string        // of this process
	joins   chan *joining // sessions to send to
	called  chan struct{} // another process of the service has something to send
	freed   bell          // another process has released a lease

	// Below is for the goroutine of run, and then that of flush.
	outlets []outlet
	repairs map[string]*repairs // by broker

	// unmarked has what was acknowledged and is not marked yet: by id, the
	// brokers that did. Where one process relays, marking can wait a little:
	// its disk write would compete with those that somebody waits for.
	unmarked map[int64][]string
}

// outlet is a session to send to.
type outlet struct {
	broker  string
	session Session
}

// joining asks the relay to send to a session, too.
type joining struct {
	outlet
	since time.Time // from when on what was sent to that broker is in doubt
	done  chan error
}

// batchSize bounds a batch of the relay.
const batchSize = 500

// batchBytes is roughly the most that a batch holds in memory.
const batchBytes = 16 << 20

// markAfter is how long a mark may wait for others.
const markAfter = 10 * time.Millisecond

// poll is how often the relay, the schedule and the sweep look for what nobody
// has told them of.
const poll = time.Second

// row is an event in the outbox.
type row struct {
	id     int64
	stream string
	body   []byte
}

// join has the relay send to a session until it is lost. Before it sends
// anything there, it is on record that what is in doubt has to be sent again.
func (r *relay) join(stop context.Context, broker string, session Session, since time.Time) error {
	j := &joining{outlet{broker, session}, since, make(chan error, 1)}
	select {
	case r.joins <- j:
	case <-stop.Done():
		return stop.Err()
	}
	select {
	case err := <-j.done:
		return err
	case <-stop.Done():
		return stop.Err()
	}
}

// run sends what is committed, at once and in order of commit, until stop is
// done. Work under way then ends with ctx.
func (r *relay) run(ctx, stop context.Context) {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	var (
		mark     <-chan time.Time // fires when what is acknowledged should be marked
		again    <-chan time.Time // fires when what failed should be tried again
		failed   = backoff{first: 50 * time.Millisecond, most: 2 * time.Second}
		unmarked = failed // tries to mark
		repaired time.Time
	)
	admit := func(j *joining) {
		j.done <- r.admit(ctx, j)
		again, repaired = nil, time.Time{}
	}
	for {
		var more bool
		var err error
		if r.dropLost(); len(r.outlets) > 0 && again == nil {
			if time.Since(repaired) >= poll {
				repaired = time.Now()
				err = r.repair(ctx)
			}
			if err == nil {
				more, err = r.batch(ctx)
			}
		}
		switch r.dropLost(); {
		case err != nil && stop.Err() == nil && len(r.outlets) > 0:
			r.log.WarnContext(ctx, "relay: some events were not sent; they stay in the outbox", "error", err)
			again = time.After(failed.next())
		case again == nil:
			failed.reset()
		}
		if more && err == nil && stop.Err() == nil {
			r.call(ctx) // others may take a share
			select {
			case j := <-r.joins:
				admit(j)
			default:
			}
			continue
		}
		if len(r.unmarked) > 0 && mark == nil {
			mark = time.After(markAfter)
		}
		select {
		case <-r.committed:
			if len(r.outlets) == 0 {
				r.call(ctx) // another process may be connected
			}
		case <-r.called:
		case <-ticker.C:
		case j := <-r.joins:
			admit(j)
		case <-again:
			again = nil
		case <-mark:
			mark = nil
			if err := r.markAll(ctx); err != nil {
				r.log.WarnContext(ctx, "relay: events are sent but not marked yet; tried again", "error", err)
				mark = time.After(unmarked.next())
			} else {
				unmarked.reset()
			}
		case <-stop.Done():
			return
		}
	}
}

// call wakes the relays of the service's other processes.
func (r *relay) call(ctx context.Context) {
	if err := r.db.Notify(ctx, channel, callRelay); err != nil {
		r.log.DebugContext(ctx, "relay: other processes were not told of new events; they look every second", "error", err)
	}
}

// admit adds a session to those that the relay sends to.
func (r *relay) admit(ctx context.Context, j *joining) error {
	if isLost(j.session) {
		return errors.New("event: the session is lost already")
	}
	if err := r.enter(ctx, j.broker, j.since); err != nil {
		return err
	}
	r.outlets = append(r.outlets, j.outlet)
	return nil
}

// dropLost forgets the sessions that are lost.
func (r *relay) dropLost() {
	r.outlets = slices.DeleteFunc(r.outlets, func(o outlet) bool { return isLost(o.session) })
}

// flush sends what is left in the outbox when the service stops. What it
// cannot send stays for the next process.
func (r *relay) flush(ctx context.Context) error {
	for {
		r.dropLost()
		more, err := r.batch(ctx)
		if e := r.markAll(ctx); err != nil || e != nil {
			return errors.Join(err, e)
		}
		if !more {
			return nil
		}
	}
}

// batch sends the oldest unsent events and has those marked, in one statement,
// that a broker acknowledged. It reports whether there may be more. An error
// means that at least one was not acknowledged by any.
func (r *relay) batch(ctx context.Context) (more bool, err error) {
	if !r.dialect.locks {
		rows, more, err := r.unsent(ctx, r.db)
		if err != nil {
			return false, err
		}
		rows = slices.DeleteFunc(rows, func(o row) bool { _, sent := r.unmarked[o.id]; return sent })
		if len(rows) > 0 {
			var acked map[int64][]string
			acked, err = r.send(ctx, rows)
			for id, brokers := range acked {
				r.unmarked[id] = brokers
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
		var acked map[int64][]string
		acked, sendErr = r.send(ctx, rows)
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

// errNoBroker is why nothing can be sent.
var errNoBroker = errors.New("event: no broker is connected")

// send publishes the rows to every connected broker, side by side, and returns
// by id of the row which brokers acknowledged it. It ends when every broker has
// answered or given up. An error means that some row is not among them.
func (r *relay) send(ctx context.Context, rows []row) (acked map[int64][]string, err error) {
	if len(r.outlets) == 0 {
		return nil, errNoBroker
	}
	var (
		mu      sync.Mutex
		pending sync.WaitGroup
		counts  = make([]int, len(r.outlets)) // acknowledged, by outlet
		refused = make([]error, len(r.outlets))
		took    = make([]time.Duration, len(r.outlets)) // until the last answer
		start   = time.Now()
	)
	acked = make(map[int64][]string, len(rows))
	for _, o := range rows {
		for i, out := range r.outlets {
			pending.Add(1)
			out.session.Publish(ctx, o.stream, o.body, func(e error) {
				mu.Lock()
				took[i] = time.Since(start)
				if e == nil {
					acked[o.id] = append(acked[o.id], out.broker)
					counts[i]++
				} else if refused[i] == nil {
					refused[i] = fmt.Errorf("event: send on %s to %s: %w", o.stream, out.broker, e)
				}
				mu.Unlock()
				pending.Done()
			})
		}
	}
	pending.Wait()
	for i, out := range r.outlets {
		r.metrics.sent(ctx, out.broker, rows, counts[i], took[i])
	}
	if len(acked) < len(rows) {
		return acked, errors.Join(refused...)
	}
	if err := errors.Join(refused...); err != nil {
		r.log.WarnContext(ctx, "relay: a broker did not take some events, another did; they are sent to it again", "error", err)
	}
	return acked, nil
}

// markAll marks what is acknowledged and not marked yet.
func (r *relay) markAll(ctx context.Context) error {
	if len(r.unmarked) == 0 {
		return nil
	}
	err := r.db.InTx(ctx, func(tx *database.Tx) error { return r.mark(ctx, tx, r.unmarked) })
	if err == nil {
		clear(r.unmarked)
	}
	return err
}

// mark records that rows are sent, only after a broker has said so, and which
// of the brokers that this outbox knows do not have all of them.
func (r *relay) mark(ctx context.Context, tx *database.Tx, acked map[int64][]string) error {
	if len(acked) == 0 {
		return nil
	}
	type id struct {
		ID int64 `json:"id"`
	}
	ids := make([]id, 0, len(acked))
	full := map[string]int{}
	for i, brokers := range acked {
		ids = append(ids, id{i})
		for _, b := range brokers {
			full[b]++
		}
	}
	complete := []brokerName{}
	for b, n := range full {
		if n == len(acked) {
			complete = append(complete, brokerName{b})
		}
	}
	now := micros(time.Now())
	if _, err := tx.ExecContext(ctx, r.sql.markSent, asRows(ids), now); err != nil {
		return fmt.Errorf("event: mark events sent: %w", err)
	}
	if _, err := tx.ExecContext(ctx, r.sql.markMissing, asRows(complete), now); err != nil {
		return fmt.Errorf("event: record what a broker misses: %w", err)
	}
	return nil
}

// brokerName names a broker in a statement's set of rows.
type brokerName struct {
	Broker string `json:"broker"`
}

// runSchedule publishes scheduled events when they are due, until ctx is done.
// It needs no broker.
func (r *relay) runSchedule(ctx context.Context) {
	failed := backoff{first: 50 * time.Millisecond, most: 2 * time.Second}
	for {
		more, err := r.publishDue(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "schedule: due events are late", "error", err)
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

func isLost(s Session) bool {
	select {
	case <-s.Lost():
		return true
	default:
		return false
	}
}
