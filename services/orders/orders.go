// Package orders is what other services know of the orders service: the events
// it publishes and the ids in them.
package orders

import (
	"time"

	"github.com/turnstile-go/turnstile/framework/event"
)

// Stream carries the events of every order; their key is the order's id.
const Stream = "orders"

// Created says that a buyer holds a ticket until the order is complete, is
// cancelled, or expires.
type Created struct {
	ID        string    `json:"id"`
	UserID    string    `json:"userId"` // the buyer
	ExpiresAt time.Time `json:"expiresAt"`
	Ticket    Ticket    `json:"ticket"`
	Version   int64     `json:"version"` // 0
}

// Ticket is a ticket as it was when it was ordered.
type Ticket struct {
	ID    string `json:"id"`
	Price int64  `json:"price"` // minor units: what is charged
}

// Meta implements event.Event.
func (e Created) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "order.created", Key: e.ID}
}

// Reason is why an order was cancelled.
type Reason string

// The reasons.
const (
	ByUser        Reason = "user"
	Expired       Reason = "expired"
	TicketDeleted Reason = "ticket_deleted"
)

// Cancelled says that an order ended without a sale and holds its ticket no
// longer. It can be followed only by PaymentRefused.
type Cancelled struct {
	ID      string    `json:"id"`
	Reason  Reason    `json:"reason"`
	Ticket  TicketRef `json:"ticket"`
	Version int64     `json:"version"`
}

// TicketRef names a ticket.
type TicketRef struct {
	ID string `json:"id"`
}

// Meta implements event.Event.
func (e Cancelled) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "order.cancelled", Key: e.ID}
}

// Completed says that an order is paid: its ticket is sold.
type Completed struct {
	ID      string    `json:"id"`
	Ticket  TicketRef `json:"ticket"`
	Version int64     `json:"version"`
}

// Meta implements event.Event.
func (e Completed) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "order.completed", Key: e.ID}
}

// PaymentRefused says that a captured payment came too late for its order, so
// that the money has to go back.
type PaymentRefused struct {
	ID        string `json:"id"`
	PaymentID string `json:"paymentId"`
}

// Meta implements event.Event.
func (e PaymentRefused) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "order.payment_refused", Key: e.ID}
}
