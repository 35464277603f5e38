package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

// Recovery settles payments that were left pending, by a crash or by a provider
// that did not answer. It is a part of the service. One process of the service
// is to do so, for the provider's sake; several that settle the same payment do
// no harm.
type Recovery struct {
	server *Server
	every  time.Duration
	lead   Lead
}

// Lead calls do while this process is the one that is to do the task, until ctx
// is done: see event.Client.
type Lead func(ctx context.Context, task string, do func(ctx context.Context)) error

// Recovery returns the part that looks for pending payments every so often.
func (s *Server) Recovery(every time.Duration, lead Lead) *Recovery {
	return &Recovery{server: s, every: every, lead: lead}
}

// Run looks for pending payments until ctx is done, while no other process does.
func (r *Recovery) Run(ctx context.Context) error {
	if err := r.lead(ctx, "recovery", r.run); err != nil {
		return fmt.Errorf("decide who settles pending payments: %w", err)
	}
	return nil
}

// run looks at once and then every so often.
func (r *Recovery) run(ctx context.Context) {
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	for {
		if err := r.pass(ctx, time.Now()); err != nil && ctx.Err() == nil {
			r.server.log.LogAttrs(ctx, slog.LevelWarn, "pending payments are not settled; trying again", slog.Any("error", err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// pass settles the payments for which nobody is waiting any more: those that
// were begun longer ago than a provider may take.
func (r *Recovery) pass(ctx context.Context, now time.Time) error {
	begun := uuid.UUID{6: 0x70, 8: 0x80} // the least that NewV7 makes in a millisecond
	for i, ms := 5, now.Add(-r.server.timeout).UnixMilli(); i >= 0; i, ms = i-1, ms>>8 {
		begun[i] = byte(ms)
	}
	pending, err := store.Pending(ctx, r.server.db, begun.String())
	if err != nil {
		return err
	}
	for _, p := range pending {
		if ctx.Err() != nil {
			return nil
		}
		settled, failed := r.server.settle(ctx, p)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("payment %s of order %s: %w", p.ID, p.OrderID, failed))
			continue
		}
		r.server.log.LogAttrs(ctx, slog.LevelInfo, "settled a payment that was left pending",
			slog.String("payment", p.ID), slog.String("order", p.OrderID), slog.String("status", string(settled.Status)))
	}
	return err
}
