// Package server is what the payments service answers and what it listens to.
package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
)

// Provider takes money.
type Provider interface {
	// Charge takes the money and returns the provider's id of that. It fails
	// with a *payment.DeclinedError when the provider refuses; after any other
	// error it is unknown whether the money was taken, and to ask again with
	// the same key tells.
	Charge(ctx context.Context, c payment.Charge) (id string, err error)
}

// Server has the service's operations and its event handlers.
type Server struct {
	db       *database.DB
	outbox   *event.Outbox
	provider Provider
	timeout  time.Duration
	log      *slog.Logger
}

// New returns a server on a database with the schema of store.Migrations, and
// an outbox for the events of Publishes. It waits for the provider no longer
// than timeout.
func New(db *database.DB, outbox *event.Outbox, provider Provider, timeout time.Duration, log *slog.Logger) *Server {
	return &Server{db: db, outbox: outbox, provider: provider, timeout: timeout, log: log}
}

// Publishes has one event of every type that the service publishes.
func Publishes() []event.Event { return []event.Event{payments.Captured{}} }
