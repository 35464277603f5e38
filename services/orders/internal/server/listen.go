package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/orders/internal/order"
	"github.com/turnstile-go/turnstile/services/orders/internal/store"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/tickets"
)

// expiration is this service's note to itself that an order's time is up,
// scheduled when the order is placed. It has a stream of its own, so that the
// others never see it, and no order's events wait behind it.
type expiration struct {
	OrderID string `json:"orderId"`
}

// Meta implements event.Event.
func (e expiration) Meta() event.Meta {
	return event.Meta{Stream: "order-expirations", Type: "order.expiration", Key: e.OrderID}
}

// Listen registers the service's handlers of events.
func (s *Server) Listen(l *event.Listener) {
	event.Handle(l, s.onTicketCreated)
	event.Handle(l, s.onTicketUpdated)
	event.Handle(l, s.onTicketDeleted)
	event.Handle(l, s.onPaymentCaptured)
	event.Handle(l, s.onExpiration)
}

func (s *Server) onTicketCreated(ctx context.Context, tx *database.Tx, m *event.Message[tickets.Created]) error {
	t := m.Data
	return store.PutTicket(ctx, tx, order.Ticket{
		ID: t.ID, Title: t.Title, Price: order.Price(t.Price), UserID: t.UserID, Version: t.Version,
	})
}

func (s *Server) onTicketUpdated(ctx context.Context, tx *database.Tx, m *event.Message[tickets.Updated]) error {
	t := m.Data
	return store.PutTicket(ctx, tx, order.Ticket{
		ID: t.ID, Title: t.Title, Price: order.Price(t.Price), UserID: t.UserID, Version: t.Version,
	})
}

// onTicketDeleted cancels the order that was placed before we heard of the
// deletion. The ticket's row orders the two: an order placed later finds it
// deleted.
func (s *Server) onTicketDeleted(ctx context.Context, tx *database.Tx, m *event.Message[tickets.Deleted]) error {
	if err := store.DeleteTicket(ctx, tx, m.Data.ID, m.Data.Version); err != nil {
		return err
	}
	id, err := store.Holder(ctx, tx, m.Data.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = s.cancel(ctx, tx, id, orders.TicketDeleted)
	return err
}

// onPaymentCaptured completes the order. Money that came too late, or twice,
// is refused, for payments to give back.
func (s *Server) onPaymentCaptured(ctx context.Context, tx *database.Tx, m *event.Message[payments.Captured]) error {
	o, changed, err := store.Complete(ctx, tx, m.Data.OrderID, m.Data.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		// Only our own orders can be paid: no retry makes one appear.
		return event.Dead(fmt.Errorf("payment %s: %w", m.Data.ID, err))
	case err != nil:
		return err
	case changed:
		return s.outbox.Publish(ctx, tx, orders.Completed{
			ID: o.ID, Ticket: orders.TicketRef{ID: o.Ticket.ID}, Version: o.Version,
		})
	case o.PaymentID == m.Data.ID:
		return nil
	}
	return s.outbox.Publish(ctx, tx, orders.PaymentRefused{ID: o.ID, PaymentID: m.Data.ID})
}

func (s *Server) onExpiration(ctx context.Context, tx *database.Tx, m *event.Message[expiration]) error {
	_, err := s.cancel(ctx, tx, m.Data.OrderID, orders.Expired)
	return err
}

// cancel cancels an order unless it is final, and tells everybody. It returns
// the order as it is then.
func (s *Server) cancel(ctx context.Context, tx *database.Tx, id string, reason orders.Reason) (order.Order, error) {
	o, changed, err := store.Cancel(ctx, tx, id)
	if err != nil || !changed {
		return o, err
	}
	return o, s.outbox.Publish(ctx, tx, orders.Cancelled{
		ID: o.ID, Reason: reason, Ticket: orders.TicketRef{ID: o.Ticket.ID}, Version: o.Version,
	})
}
