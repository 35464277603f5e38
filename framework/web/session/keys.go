package session

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
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

const (
	maxAge  = 5 * time.Minute // how old the copy of auth's keys gets: how long a retired key may still count
	retry   = 2 * time.Second // pause between attempts to renew it
	timeout = 2 * time.Second // how long an attempt may take
)

// remoteKeys keeps a copy of auth's published keys. It is renewed by requests: when the copy is older than maxAge, and when a
// token names an unknown key. A failed attempt leaves the copy as it is.
type remoteKeys struct {
	url    string
	client *http.Client
	log    *slog.Logger
	now    func() time.Time

	copied    atomic.Pointer[keySet]
	renewing  chan struct{} // holds an element while somebody renews the copy; guards what follows
	attempted time.Time
	lastErr   error
}

func newRemoteKeys(url string, transport http.RoundTripper, log *slog.Logger, now func() time.Time) *remoteKeys {
	if transport == nil {
		transport = &http.Transport{DisableKeepAlives: true} // used too rarely to keep a connection
	}
	return &remoteKeys{url: url, client: &http.Client{Transport: transport}, log: log, now: now, renewing: make(chan struct{}, 1)}
}

type keySet struct {
	keys map[string]ed25519.PublicKey
	at   time.Time
}

func (s *keySet) has(id string) bool { return s != nil && s.keys[id] != nil }

// Key returns ErrUnknownKey when auth says so, and another error when no key has ever been reached.
func (k *remoteKeys) Key(ctx context.Context, id string) (ed25519.PublicKey, error) {
	set := k.copied.Load()
	if set.has(id) {
		if k.now().Sub(set.at) <= maxAge {
			return set.keys[id], nil
		}
		select {
		case k.renewing <- struct{}{}:
		default: // one request renews an old copy, the others go on with it
			return set.keys[id], nil
		}
	} else {
		select {
		case k.renewing <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("session: wait for keys: %w", ctx.Err())
		}
	}
	defer func() { <-k.renewing }()
	if k.copied.Load() == set { // nobody has done it meanwhile
		k.renew(ctx)
	}
	set = k.copied.Load()
	switch {
	case set.has(id):
		return set.keys[id], nil
	case set == nil:
		return nil, fmt.Errorf("session: no keys to verify with: %w", k.lastErr)
	default:
		return nil, ErrUnknownKey
	}
}

// renew fetches the set unless the last attempt is too recent. The caller holds renewing.
func (k *remoteKeys) renew(ctx context.Context) {
	if !k.attempted.IsZero() && k.now().Sub(k.attempted) < retry {
		return
	}
	// The time counts from the end, so that those who waited for a failing attempt do not each make another.
	defer func() { k.attempted = k.now() }()
	// The set serves other requests, too: the caller that happened to ask may leave.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
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
		Client: k.client, Ctx: ctx, HTTPTimeout: timeout,
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
