package server

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

// Recovery carries on with payments that nobody waits for: those that were left
// pending, by a crash or by a provider that did not answer, and those whose
// money is to go back. It is a part of the service.
//
// One process of the service looks for them in the database, for the provider's
// sake; several that settle the same payment do no harm. Beside that, money that
// this process has heard is to go back does so at once.
type Recovery struct {
	server *Server
	every  time.Duration
	lead   Lead
}

// Lead calls do while this process is the one that is to do the task, until ctx
// is done: see event.Client.
type Lead func(ctx context.Context, task string, do func(ctx context.Context)) error

const (
	maxOwed = 100 // that wait for this process; what is more waits in the database
	atOnce  = 8   // payments about which a provider is asked
)

// Recovery returns the part that looks for payments every so often.
func (s *Server) Recovery(every time.Duration, lead Lead) *Recovery {
	return &Recovery{server: s, every: every, lead: lead}
}

// Run carries on with payments until ctx is done.
func (r *Recovery) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range atOnce {
		workers.Go(func() { r.giveBack(ctx) })
	}
	if err := r.lead(ctx, "recovery", r.run); err != nil {
		return fmt.Errorf("decide who settles payments: %w", err)
	}
	return nil
}

// giveBack gives back what this process owes. What goes wrong is done again in a
// pass.
func (r *Recovery) giveBack(ctx context.Context) {
	for {
		select {
		case p := <-r.server.owed:
			r.settle(ctx, p)
		case <-ctx.Done():
			return
		}
	}
}

// run makes a pass at once and then every so often.
func (r *Recovery) run(ctx context.Context) {
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	for {
		if err := r.pass(ctx); err != nil && ctx.Err() == nil {
			r.server.log.LogAttrs(ctx, slog.LevelWarn, "payments that are not settled cannot be looked for; trying again",
				slog.Any("error", err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// pass carries on with all payments about which nobody asks the provider now.
func (r *Recovery) pass(ctx context.Context) error {
	for began := time.Now(); ctx.Err() == nil; {
		unsettled, err := store.Unsettled(ctx, r.server.db, began)
		if err != nil || len(unsettled) == 0 {
			return err
		}
		var group errgroup.Group
		group.SetLimit(atOnce)
		for _, p := range unsettled {
			group.Go(func() error { return r.carryOn(ctx, p) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// carryOn settles a payment unless another process has begun to. A failure of the
// provider's is none of the pass's: the payment waits for the next one.
func (r *Recovery) carryOn(ctx context.Context, p payment.Payment) error {
	if ctx.Err() != nil {
		return nil
	}
	// The pauses grow, to four times as long as the provider may take.
	until := time.Now().Add(r.server.timeout << min(p.Tries, 2))
	ours := false
	err := r.server.db.InTx(ctx, func(tx *database.Tx) (err error) {
		ours, err = store.Claim(ctx, tx, p, until)
		return err
	})
	if err == nil && ours {
		r.settle(ctx, p)
	}
	return err
}

func (r *Recovery) settle(ctx context.Context, p payment.Payment) {
	about := []slog.Attr{slog.String("payment", p.ID), slog.String("order", p.OrderID)}
	settled, err := r.server.settle(ctx, p)
	if err != nil {
		r.server.log.LogAttrs(ctx, slog.LevelWarn, "a payment is not settled; trying again", append(about, slog.Any("error", err))...)
		return
	}
	r.server.log.LogAttrs(ctx, slog.LevelInfo, "settled a payment", append(about, slog.String("status", string(settled.Shown())))...)
}
