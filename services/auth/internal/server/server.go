// Package server is what the auth service answers. It listens to nobody.
package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth"
	"github.com/turnstile-go/turnstile/services/auth/internal/store"
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
	log      *slog.Logger
}

// New returns a server on a database with the schema of store.Migrations, and
// an outbox for the events of Publishes. Sessions are issued as issue says.
func New(
	db *database.DB, outbox *event.Outbox, keys *Keyring, sessions *session.Verifier, issue session.Config, hasher *user.Hasher,
	log *slog.Logger,
) *Server {
	return &Server{db: db, outbox: outbox, keys: keys, sessions: sessions, issue: issue, hasher: hasher, log: log}
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

// Keyring has the keys that sessions are signed and verified with. It is a part
// of the service: Start reads them from the database, and makes the first one
// if there is none.
type Keyring struct {
	db   *database.DB
	keys atomic.Pointer[[]session.Key] // the newest first; at least one
}

// NewKeyring returns a Keyring on a database with the schema of
// store.Migrations. It is empty before Start.
func NewKeyring(db *database.DB) *Keyring { return &Keyring{db: db} }

// Start fills the keyring. Services that start at once on an empty database
// end up with the same key.
func (k *Keyring) Start(ctx context.Context) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	var keys []session.Key
	err = k.db.InTx(ctx, func(tx *database.Tx) (err error) {
		if err := store.FirstKey(ctx, tx, session.Key{ID: id.String(), Private: private}, time.Now()); err != nil {
			return err
		}
		keys, err = store.Keys(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	k.keys.Store(&keys)
	return nil
}

// Run waits for the end: there is nothing to be done meanwhile.
func (k *Keyring) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Key implements session.Keys.
func (k *Keyring) Key(_ context.Context, id string) (ed25519.PublicKey, error) {
	keys, err := k.all()
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if key.ID == id {
			return key.Public(), nil
		}
	}
	return nil, session.ErrUnknownKey
}

func (k *Keyring) all() ([]session.Key, error) {
	keys := k.keys.Load()
	if keys == nil {
		return nil, errors.New("the signing keys have not been read yet")
	}
	return *keys, nil
}
