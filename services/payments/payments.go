// Package payments is what other services know of the payments service: the
// events it publishes and the ids in them.
package payments

import "github.com/turnstile-go/turnstile/framework/event"

// Stream carries the events of every payment; their key is the payment's id.
const Stream = "payments"

// Captured says that an order's money was taken.
type Captured struct {
	ID       string `json:"id"`
	OrderID  string `json:"orderId"`
	Amount   int64  `json:"amount"`   // minor units
	Currency string `json:"currency"` // ISO 4217 in lower case: usd
}

// Meta implements event.Event.
func (e Captured) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "payment.captured", Key: e.ID}
}

// Refunded says that money that was taken for an order has gone back, all of it.
type Refunded struct {
	ID      string `json:"id"`
	OrderID string `json:"orderId"`
}

// Meta implements event.Event.
func (e Refunded) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "payment.refunded", Key: e.ID}
}
