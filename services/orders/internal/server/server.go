// Package server is what the orders service answers and what it listens to.
package server

import (
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/services/orders"
)

// Server has the service's operations and its event handlers.
type Server struct {
	db         *database.DB
	outbox     *event.Outbox
	expiration time.Duration
}

// New returns a server on a database with the schema of store.Migrations, and
// an outbox for the events of Publishes. An order that is not complete when
// expiration has passed is cancelled.
func New(db *database.DB, outbox *event.Outbox, expiration time.Duration) *Server {
	return &Server{db: db, outbox: outbox, expiration: expiration}
}

// Publishes has one event of every type that the service publishes.
func Publishes() []event.Event {
	return []event.Event{orders.Created{}, orders.Cancelled{}, orders.Completed{}, orders.PaymentRefused{}, expiration{}}
}
