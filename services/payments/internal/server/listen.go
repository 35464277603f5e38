package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

// Listen registers the service's handlers of other services' events.
func (s *Server) Listen(l *event.Listener) {
	event.Handle(l, s.onOrderCreated)
	event.Handle(l, s.onOrderCancelled)
	event.Handle(l, s.onOrderCompleted)
	event.Handle(l, s.onPaymentRefused)
}

func (s *Server) onOrderCreated(ctx context.Context, tx *database.Tx, m *event.Message[orders.Created]) error {
	o := m.Data
	return store.PutOrder(ctx, tx, payment.Order{
		ID: o.ID, UserID: o.UserID, Price: o.Ticket.Price,
		Status: payment.OrderCreated, ExpiresAt: o.ExpiresAt, Version: o.Version,
	})
}

func (s *Server) onOrderCancelled(ctx context.Context, tx *database.Tx, m *event.Message[orders.Cancelled]) error {
	return store.EndOrder(ctx, tx, m.Data.ID, payment.OrderCancelled, m.Data.Version)
}

func (s *Server) onOrderCompleted(ctx context.Context, tx *database.Tx, m *event.Message[orders.Completed]) error {
	return store.EndOrder(ctx, tx, m.Data.ID, payment.OrderComplete, m.Data.Version)
}

// onPaymentRefused notes that the money goes back. The provider is asked once
// that is committed: what it does cannot be rolled back with a transaction.
func (s *Server) onPaymentRefused(ctx context.Context, tx *database.Tx, m *event.Message[orders.PaymentRefused]) error {
	p, err := store.Get(ctx, tx, m.Data.PaymentID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return event.Dead(fmt.Errorf("order %s: %w", m.Data.ID, err))
	case err != nil:
		return err
	case p.Status != payment.Captured || p.OrderID != m.Data.ID:
		// Only what was captured for an order is refused by it: no retry makes it so.
		return event.Dead(fmt.Errorf("payment %s of order %s is %s, and order %s refused it", p.ID, p.OrderID, p.Status, m.Data.ID))
	}
	return s.giveBack(ctx, tx, p.ID, p.ChargeID)
}
