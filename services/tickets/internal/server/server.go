// Package server is what the tickets service answers and what it listens to.
package server

import (
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/services/tickets"
)

// Server has the service's operations and its event handlers.
type Server struct {
	db     *database.DB
	outbox *event.Outbox
}

// New returns a server on a database with the schema of store.Migrations, and
// an outbox for the events of Publishes.
func New(db *database.DB, outbox *event.Outbox) *Server {
	return &Server{db: db, outbox: outbox}
}

// Publishes has one event of every type that the service publishes.
func Publishes() []event.Event {
	return []event.Event{tickets.Created{}, tickets.Updated{}, tickets.Deleted{}}
}
