package session

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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

// MaxKeyAge is how old a verifier's copy of auth's keys gets while auth answers. A key that was published for longer than
// that is known to everybody.
const MaxKeyAge = 5 * time.Minute

const (
	renewAfter = MaxKeyAge * 3 / 5 // and a random bit, so that processes do not ask in step
	retry      = 2 * time.Second   // pause between attempts to renew the copy
	retryFirst = retry / 10        // the same while there is none: services that are started at once wait for auth
	timeout    = 2 * time.Second   // how long an attempt may take
)

// remoteKeys keeps a copy of auth's published keys. run renews it, so that no request waits for that, but for one whose
// token names an unknown key: that may be a new one, so the keys are asked for at once, though with a pause between two
// attempts. A failed attempt leaves the copy as it is.
type remoteKeys struct {
	url    string
	client *http.Client
	log    *slog.Logger

	copied    atomic.Pointer[keySet]
	renewing  chan struct{} // holds an element while somebody renews the copy; guards what follows
	attempted time.Time
	lastErr   error
}

func newRemoteKeys(url string, transport http.RoundTripper, log *slog.Logger) *remoteKeys {
	if transport == nil {
		transport = &http.Transport{DisableKeepAlives: true} // used too rarely to keep a connection
	}
	return &remoteKeys{url: url, client: &http.Client{Transport: transport}, log: log, renewing: make(chan struct{}, 1)}
}

type keySet struct {
	keys map[string]ed25519.PublicKey
	at   time.Time
}

func (s *keySet) has(id string) bool { return s != nil && s.keys[id] != nil }

// Key returns ErrUnknownKey when auth says so, and another error when auth cannot be asked and the copy is too old to tell.
func (k *remoteKeys) Key(ctx context.Context, id string) (ed25519.PublicKey, error) {
	set := k.copied.Load()
	if set.has(id) {
		return set.keys[id], nil
	}
	lastErr, err := k.renew(ctx, set)
	if err != nil {
		return nil, err
	}
	set = k.copied.Load()
	switch {
	case set.has(id):
		return set.keys[id], nil
	case set == nil:
		return nil, fmt.Errorf("session: no keys to verify with: %w", lastErr)
	case time.Since(set.at) > MaxKeyAge:
		return nil, fmt.Errorf("session: the keys to verify with are of %s: %w", set.at.Format(time.RFC3339), lastErr)
	default:
		return nil, ErrUnknownKey
	}
}

// ready fails until there is a copy. Then there always is one: it stays while auth is away.
func (k *remoteKeys) ready() error {
	if k.copied.Load() == nil {
		return fmt.Errorf("none from %s yet", k.url)
	}
	return nil
}

// run keeps the copy up to date until ctx is done.
func (k *remoteKeys) run(ctx context.Context) {
	for {
		lastErr, err := k.renew(ctx, k.copied.Load())
		wait := k.pause()
		if err == nil && lastErr == nil {
			wait = renewAfter + rand.N(MaxKeyAge/5)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// pause is how long to wait between two attempts.
func (k *remoteKeys) pause() time.Duration {
	if k.copied.Load() == nil {
		return retryFirst
	}
	return retry
}

// renew renews the copy, unless the caller has not seen the newest, or the last attempt was just now. It returns why the
// last attempt failed, nil if it did not; err says that ctx was done first.
func (k *remoteKeys) renew(ctx context.Context, seen *keySet) (lastErr, err error) {
	select {
	case k.renewing <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("session: wait for keys: %w", ctx.Err())
	}
	defer func() { <-k.renewing }()
	if k.copied.Load() != seen || !k.attempted.IsZero() && time.Since(k.attempted) < k.pause() {
		return k.lastErr, nil
	}
	// The set serves other requests, too: the caller that happened to ask may leave.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	set, err := k.fetch(ctx)
	k.attempted = time.Now() // the end, so that those who waited for a failing attempt do not each make another
	if err != nil && k.lastErr == nil {
		k.log.LogAttrs(ctx, slog.LevelWarn, "cannot renew the session keys; those known still count",
			slog.String("url", k.url), slog.Bool("known", seen != nil), slog.Any("error", err))
	}
	if k.lastErr = err; err == nil {
		k.copied.Store(set)
	}
	return k.lastErr, nil
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
	set := &keySet{keys: map[string]ed25519.PublicKey{}, at: time.Now()}
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
