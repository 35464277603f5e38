package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth/internal/store"
)

const (
	// publishFor is for how long a key is published before it signs: longer
	// than it takes until all who verify know it.
	publishFor = 2 * session.MaxKeyAge

	// outlive is for how long a key stays after all that it has signed has
	// expired: clocks differ.
	outlive = 10 * time.Minute

	readKeysEvery  = 5 * time.Second
	readKeysWithin = 5 * time.Second
)

// Keyring has the keys that sessions are signed and verified with. It is a part
// of the service: Start reads them from the database, and makes the first one
// if there is none; Run reads them again and again, so that all processes have
// the same.
type Keyring struct {
	db   *database.DB
	log  *slog.Logger
	keys atomic.Pointer[[]store.SigningKey] // the one that signs last first; at least one
}

// NewKeyring returns a Keyring on a database with the schema of
// store.Migrations. It is empty before Start.
func NewKeyring(db *database.DB, log *slog.Logger) *Keyring { return &Keyring{db: db, log: log} }

// newKey makes a key that signs from some time on.
func newKey(from time.Time) (store.SigningKey, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return store.SigningKey{}, err
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return store.SigningKey{}, err
	}
	return store.SigningKey{Key: session.Key{ID: id.String(), Private: private}, SignsFrom: from}, nil
}

// Start fills the keyring. Services that start at once on an empty database
// end up with the same key.
func (k *Keyring) Start(ctx context.Context) error {
	first, err := newKey(time.Now())
	if err != nil {
		return err
	}
	if err := k.db.InTx(ctx, func(tx *database.Tx) error { return store.FirstKey(ctx, tx, first) }); err != nil {
		return err
	}
	return k.read(ctx)
}

func (k *Keyring) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readKeysWithin)
	defer cancel()
	keys, err := store.Keys(ctx, k.db)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return errors.New("there is no signing key; those known stay")
	}
	k.keys.Store(&keys)
	return nil
}

// Run keeps the keyring up to date until ctx is done. While the database is
// away it stays as it is.
func (k *Keyring) Run(ctx context.Context) error {
	ticker := time.NewTicker(readKeysEvery)
	defer ticker.Stop()
	for failing := false; ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		err := k.read(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			k.log.LogAttrs(ctx, slog.LevelWarn, "cannot read the signing keys; those known stay", slog.Any("error", err))
		}
		failing = err != nil
	}
}

// Key implements session.Keys.
func (k *Keyring) Key(_ context.Context, id string) (ed25519.PublicKey, error) {
	keys, err := k.all()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(keys, func(key store.SigningKey) bool { return key.ID == id })
	if i < 0 {
		return nil, session.ErrUnknownKey
	}
	return keys[i].Public(), nil
}

func (k *Keyring) all() ([]store.SigningKey, error) {
	keys := k.keys.Load()
	if keys == nil {
		return nil, errors.New("the signing keys have not been read yet")
	}
	return *keys, nil
}

// signing returns the key that signs.
func (k *Keyring) signing() (session.Key, error) {
	keys, err := k.all()
	if err != nil {
		return session.Key{}, err
	}
	return keys[signing(keys, time.Now())].Key, nil
}

// published returns all keys, as others may know them.
func (k *Keyring) published() ([]session.Key, error) {
	keys, err := k.all()
	if err != nil {
		return nil, err
	}
	all := make([]session.Key, len(keys))
	for i, key := range keys {
		all[i] = key.Key
	}
	return all, nil
}

// signing returns which of the keys, the one that signs last first, signs: the
// first whose time has come, or by a clock that is behind the oldest.
func signing(keys []store.SigningKey, now time.Time) int {
	i := slices.IndexFunc(keys, func(k store.SigningKey) bool { return !k.SignsFrom.After(now) })
	if i < 0 {
		return len(keys) - 1
	}
	return i
}
