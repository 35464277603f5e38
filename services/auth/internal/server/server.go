// Package server is what the auth service answers. It listens to nobody.
package server

import (
	"errors"
	"log/slog"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth"
	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

// Server has the service's operations.
type Server struct {
	db       *database.DB
	outbox   *event.Outbox
	keys     *Keyring
	sessions *session.Verifier
	issue    session.Config
	hasher   *user.Hasher
	attempts *Attempts
	log      *slog.Logger
}

// New returns a server on a database with the schema of store.Migrations, and
// an outbox for the events of Publishes. Sessions are issued as issue says.
func New(
	db *database.DB, outbox *event.Outbox, keys *Keyring, sessions *session.Verifier, issue session.Config, hasher *user.Hasher,
	attempts *Attempts, log *slog.Logger,
) *Server {
	return &Server{db: db, outbox: outbox, keys: keys, sessions: sessions, issue: issue, hasher: hasher, attempts: attempts, log: log}
}

// Problem is what the caller is told of an error, if it is one that the server
// knows.
func Problem(err error) *web.Problem {
	if errors.Is(err, user.ErrBusy) {
		return web.Unavailable("Too many people are signing in right now, please try again", time.Second)
	}
	return nil
}

// Publishes has one event of every type that the service publishes.
func Publishes() []event.Event {
	return []event.Event{auth.Registered{}, session.Revoked{}}
}
