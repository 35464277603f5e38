package server

import (
	"context"
	"errors"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/tickets"
	"github.com/turnstile-go/turnstile/services/tickets/internal/store"
	"github.com/turnstile-go/turnstile/services/tickets/internal/ticket"
)

// Listen registers the service's handlers of other services' events.
//
// An order's events come in their order, but those of two orders of one ticket
// come in any: that a second order exists can be known before the first one's
// cancellation. The second then waits for the ticket and gets it when the first
// lets go.
func (s *Server) Listen(l *event.Listener) {
	event.Handle(l, s.onOrderCreated)
	event.Handle(l, s.onOrderCancelled)
	event.Handle(l, s.onOrderCompleted)
}

func (s *Server) onOrderCreated(ctx context.Context, tx *database.Tx, m *event.Message[orders.Created]) error {
	t, err := store.Lock(ctx, tx, m.Data.Ticket.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil // deleted meanwhile; orders hears of that and cancels
	case err != nil:
		return err
	case t.Reserve(m.Data.ID):
		return s.changed(ctx, tx, t)
	case t.OrderID == m.Data.ID:
		return nil
	}
	return store.Wait(ctx, tx, t.ID, m.Data.ID)
}

func (s *Server) onOrderCancelled(ctx context.Context, tx *database.Tx, m *event.Message[orders.Cancelled]) error {
	t, err := store.Lock(ctx, tx, m.Data.Ticket.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := store.StopWaiting(ctx, tx, t.ID, m.Data.ID); err != nil {
		return err
	}
	if !t.Release(m.Data.ID) {
		return nil // another order's ticket
	}
	if err := s.changed(ctx, tx, t); err != nil {
		return err
	}
	next, err := store.Waiting(ctx, tx, t.ID)
	if err != nil || next == "" {
		return err
	}
	if err := store.StopWaiting(ctx, tx, t.ID, next); err != nil {
		return err
	}
	t.Reserve(next)
	return s.changed(ctx, tx, t)
}

func (s *Server) onOrderCompleted(ctx context.Context, tx *database.Tx, m *event.Message[orders.Completed]) error {
	t, err := store.Lock(ctx, tx, m.Data.Ticket.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil // deleted meanwhile; the buyer's order keeps its snapshot
	}
	if err != nil {
		return err
	}
	if err := store.StopWaiting(ctx, tx, t.ID, m.Data.ID); err != nil {
		return err
	}
	changed, err := t.Sell(m.Data.ID)
	if err != nil {
		// Orders lets one order of a ticket live. No retry can mend this.
		return event.Dead(err)
	}
	if !changed {
		return nil
	}
	return s.changed(ctx, tx, t)
}

// changed saves a ticket and tells everybody.
func (s *Server) changed(ctx context.Context, tx *database.Tx, t ticket.Ticket) error {
	if err := store.Save(ctx, tx, t); err != nil {
		return err
	}
	return s.outbox.Publish(ctx, tx, tickets.Updated{
		ID: t.ID, Title: t.Title, Price: int64(t.Price), UserID: t.UserID, Version: t.Version, OrderID: t.OrderID,
	})
}
