// Package tickets is what other services know of the tickets service: the
// events it publishes and the ids in them.
package tickets

import "github.com/turnstile-go/turnstile/framework/event"

// Stream carries the events of every ticket; their key is the ticket's id.
const Stream = "tickets"

// Created says that a ticket is for sale.
type Created struct {
	ID      string `json:"id"`
	Title   string `json:"title"`
	Price   int64  `json:"price"`   // minor units
	UserID  string `json:"userId"`  // the seller
	Version int64  `json:"version"` // 0
}

// Meta implements event.Event.
func (e Created) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "ticket.created", Key: e.ID}
}

// Updated tells a ticket's new state after an edit, and after it was reserved,
// released or sold. Each raises the version by one.
type Updated struct {
	ID      string `json:"id"`
	Title   string `json:"title"`
	Price   int64  `json:"price"`  // minor units
	UserID  string `json:"userId"` // the seller
	Version int64  `json:"version"`
	OrderID string `json:"orderId,omitempty"` // the order that holds the ticket or bought it; empty while it can be bought
}

// Meta implements event.Event.
func (e Updated) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "ticket.updated", Key: e.ID}
}

// Deleted says that a ticket is gone for good: it is a ticket's last event.
type Deleted struct {
	ID      string `json:"id"`
	Version int64  `json:"version"` // one above the ticket's last
}

// Meta implements event.Event.
func (e Deleted) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "ticket.deleted", Key: e.ID}
}
