package server

import (
	"context"

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
