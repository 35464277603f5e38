package session

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
)

// ErrUnknownKey says that a token names a key that auth does not have: the caller is anonymous.
var ErrUnknownKey = errors.New("session: unknown key")

// Keys finds the public key with the given id. It returns ErrUnknownKey when there is none, and any other error when it
// cannot tell.
type Keys interface {
	Key(ctx context.Context, id string) (ed25519.PublicKey, error)
}

// remoteKeys keeps a copy of auth's published keys. It is refreshed by requests: when the copy is old, and when a token names
// an unknown key, but never more often than every retry. A failed refresh leaves the copy as it is.
type remoteKeys struct {
	url     string
	maxAge  time.Duration
	retry   time.Duration
	timeout time.Duration
	client  *http.Client
	log     *slog.Logger
	now     func() time.Time

	copied    atomic.Pointer[keySet]
	refresh   sync.Mutex
	attempted time.Time // guarded by refresh
	lastErr   error     // guarded by refresh
}

type keySet struct {
	keys map[string]ed25519.PublicKey
	at   time.Time
}

// Key returns ErrUnknownKey when auth says so, and another error when no key has ever been reached.
func (k *remoteKeys) Key(ctx context.Context, id string) (ed25519.PublicKey, error) {
	set := k.copied.Load()
	if set != nil {
		if key, ok := set.keys[id]; ok {
			// One request renews an old copy; the others go on with what there is.
			if k.now().Sub(set.at) > k.maxAge && k.refresh.TryLock() {
				k.renew(ctx)
				k.refresh.Unlock()
				if key, ok = k.copied.Load().keys[id]; !ok {
					return nil, ErrUnknownKey
				}
			}
			return key, nil
		}
	}
	k.refresh.Lock()
	defer k.refresh.Unlock()
	if k.copied.Load() == set { // nobody else has just done it
		k.renew(ctx)
	}
	set = k.copied.Load()
	if set == nil {
		return nil, fmt.Errorf("session: no keys to verify with: %w", k.lastErr)
	}
	if key, ok := set.keys[id]; ok {
		return key, nil
	}
	return nil, ErrUnknownKey
}

// renew fetches the set unless the last attempt is too recent. The caller holds refresh.
func (k *remoteKeys) renew(ctx context.Context) {
	if !k.attempted.IsZero() && k.now().Sub(k.attempted) < k.retry {
		return
	}
	// The time counts from the end, so that those who waited for a failing attempt do not each make another.
	defer func() { k.attempted = k.now() }()
	// The set serves other requests, too: the caller that happened to ask may leave.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.timeout)
	defer cancel()
	set, err := k.fetch(ctx)
	k.lastErr = err
	if err != nil {
		k.log.LogAttrs(ctx, slog.LevelWarn, "cannot refresh the session keys", slog.String("url", k.url),
			slog.Bool("known", k.copied.Load() != nil), slog.Any("error", err))
		return
	}
	k.copied.Store(set)
}

func (k *remoteKeys) fetch(ctx context.Context) (*keySet, error) {
	// Creating the storage fetches once, and starts nothing when no refresh interval is given.
	storage, err := jwkset.NewStorageFromHTTP(k.url, jwkset.HTTPClientStorageOptions{
		Client: k.client, Ctx: ctx, HTTPTimeout: k.timeout,
	})
	if err != nil {
		return nil, fmt.Errorf("session: fetch keys: %w", err)
	}
	all, err := storage.KeyReadAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("session: read keys: %w", err)
	}
	set := &keySet{keys: map[string]ed25519.PublicKey{}, at: k.now()}
	for _, jwk := range all {
		if key, ok := jwk.Key().(ed25519.PublicKey); ok {
			set.keys[jwk.Marshal().KID] = key
		}
	}
	if len(set.keys) == 0 {
		return nil, fmt.Errorf("session: %s publishes no Ed25519 key", k.url)
	}
	return set, nil
}
