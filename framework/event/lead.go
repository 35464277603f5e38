package event

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Lead has do called once this process is elected to do the task, and again
// whenever it is elected anew, until ctx is done: then it returns nil, as it
// does when do has returned by itself. A task is named like a DNS label, and
// led once in each process.
//
// The context of do ends with ctx, and before another process can be elected:
// do must return then, and no successor is elected at once before it has. A
// process that is halted for longer than its election lasts finds out only when
// it goes on, so what do does must bear to be done twice for a moment.
//
// Who elects is [Config].Lead. An error means that it cannot.
func (c *Client) Lead(ctx context.Context, task string, do func(ctx context.Context)) error {
	if c.cfg.Lead != nil {
		return c.cfg.Lead(ctx, task, do)
	}
	if !c.relay.dialect.locks {
		// SQLite serves one process: whoever had the lease before has ended, and is not waited for.
		do(ctx)
		return nil
	}
	return c.relay.lead(ctx, task, do)
}

// A lease in the database elects by default. Its end is a time of the
// database's clock; its holder counts by its own, from before it asked, and
// gives up leaseSpare earlier.
const (
	leaseGrant  = 15 * time.Second // after which another may have what its holder has left behind
	leaseSpare  = 5 * time.Second
	leaseExtend = 3 * time.Second // how often its holder extends it
	leaseLook   = 5 * time.Second // how often others look whether they missed that it was released
)

// lead is Client.Lead by leases in the database.
func (r *relay) lead(ctx context.Context, task string, do func(ctx context.Context)) error {
	failed := backoff{first: 50 * time.Millisecond, most: leaseExtend}
	for ctx.Err() == nil {
		freed := r.freed.heard()
		until, wait, err := r.lease(ctx, task)
		switch {
		case err != nil:
			r.log.DebugContext(ctx, "lead: not known who does the task; trying again", "task", task, "error", err)
			failed.wait(ctx, nil)
			continue
		case wait == 0:
			if r.hold(ctx, task, until, do) {
				return nil
			}
		default:
			select {
			case <-time.After(min(wait, leaseLook)):
			case <-freed:
			case <-ctx.Done():
			}
		}
		failed.reset()
	}
	return nil
}

// hold does the task for as long as the lease can be extended, and releases it.
// It reports whether do returned by itself.
func (r *relay) hold(ctx context.Context, task string, until time.Time, do func(ctx context.Context)) (finished bool) {
	r.log.InfoContext(ctx, "lead: this process does the task", "task", task)
	life := context.WithoutCancel(ctx) // of the lease: do may need a moment to return
	leading, end := context.WithCancel(ctx)
	expiry := time.AfterFunc(time.Until(until)-leaseSpare, func() {
		r.log.WarnContext(ctx, "lead: the lease cannot be extended; this process no longer does the task", "task", task)
		end()
	})
	extending, stop := context.WithCancel(life)
	var extender sync.WaitGroup
	extender.Go(func() {
		ticker := time.NewTicker(leaseExtend)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				r.extend(extending, task, expiry)
			case <-extending.Done():
				return
			}
		}
	})
	defer func() {
		finished = leading.Err() == nil
		stop()
		extender.Wait()
		expiry.Stop()
		end()
		r.release(life, task)
	}()
	do(leading)
	return false
}

// extend puts off the end of a lease that this process holds.
func (r *relay) extend(ctx context.Context, task string, expiry *time.Timer) {
	ctx, cancel := context.WithTimeout(ctx, leaseSpare)
	defer cancel()
	until, wait, err := r.lease(ctx, task)
	if err != nil {
		r.log.DebugContext(ctx, "lead: the lease is not extended; trying again", "task", task, "error", err)
		return
	}
	if expiry.Stop() { // it has not ended meanwhile
		if wait > 0 { // another has it: the database has forgotten that we had
			until = time.Now()
		}
		expiry.Reset(time.Until(until) - leaseSpare)
	}
}

// lease takes the lease of a task, or extends it, and returns until when by the
// clock of this process. If another has it, wait is how long that lasts.
func (r *relay) lease(ctx context.Context, task string) (until time.Time, wait time.Duration, err error) {
	// Those who wait write nothing.
	var holder string
	var left int64
	err = r.db.QueryRowContext(ctx, r.sql.leaseHolder, task, micros(time.Now())).Scan(&holder, &left)
	switch {
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return until, 0, fmt.Errorf("event: read the lease of %s: %w", task, err)
	case err == nil && holder != r.name && left >= 0:
		return until, time.Duration(left+1) * time.Microsecond, nil
	}
	err = r.db.InTx(ctx, func(tx *database.Tx) error {
		now := time.Now()
		done, err := tx.ExecContext(ctx, r.sql.lease, task, micros(now), r.name, leaseGrant.Microseconds())
		if err != nil {
			return fmt.Errorf("event: take the lease of %s: %w", task, err)
		}
		n, err := done.RowsAffected()
		if until, wait = now.Add(leaseGrant), 0; n == 0 {
			wait = leaseGrant // another was faster
		}
		return err
	})
	return until, wait, err
}

// release gives a lease up and tells those who wait for it.
func (r *relay) release(ctx context.Context, task string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := r.db.InTx(ctx, func(tx *database.Tx) error {
		_, err := tx.ExecContext(ctx, r.sql.releaseLease, task, r.name)
		return err
	})
	if err == nil {
		err = r.db.Notify(ctx, channel, callLease)
	}
	if err != nil {
		r.log.DebugContext(ctx, "lead: the lease is not released; others wait until it ends", "task", task, "error", err)
	}
}

// bell wakes all who wait for it. The zero value is ready.
type bell struct {
	mu   sync.Mutex
	next chan struct{}
}

// heard returns a channel that is closed when the bell is rung next.
func (b *bell) heard() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}
