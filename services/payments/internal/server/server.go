// Package server is what the payments service answers and what it listens to.
package server

import (
	"log/slog"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
)

// Server has the service's operations and its event handlers.
type Server struct {
	db       *database.DB
	outbox   *event.Outbox
	provider payment.Provider
	timeout  time.Duration
	log      *slog.Logger
	owed     chan payment.Payment // whose money is to go back at once
}

// New returns a server on a database with the schema of store.Migrations, and
// an outbox for the events of Publishes. It waits for the provider no longer
// than timeout.
func New(db *database.DB, outbox *event.Outbox, provider payment.Provider, timeout time.Duration, log *slog.Logger) *Server {
	return &Server{
		db: db, outbox: outbox, provider: provider, timeout: timeout, log: log,
		owed: make(chan payment.Payment, maxOwed),
	}
}

// Publishes has one event of every type that the service publishes.
func Publishes() []event.Event { return []event.Event{payments.Captured{}, payments.Refunded{}} }
