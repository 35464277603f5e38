package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth/internal/store"
)

const (
	// LeastRotation is the shortest time between two rotations by schedule.
	LeastRotation = time.Hour

	lookEvery = time.Minute // whether a key is due

	// rememberKeys is for how long services remember that a key was withdrawn:
	// longer than any of them goes without hearing which keys there are.
	rememberKeys = 30 * 24 * time.Hour
)

// Rotation makes new signing keys and deletes old ones: by schedule, which one
// process does, and for operators. It is a part of the service.
//
// Nobody notices: a key is published for publishFor before it signs, and for as
// long as what it has signed is valid.
type Rotation struct {
	server *Server
	every  time.Duration
	lead   Lead
}

// Lead calls do while this process is the one that is to do the task, until ctx
// is done: see event.Client.
type Lead func(ctx context.Context, task string, do func(ctx context.Context)) error

// Rotation returns the part that has another key sign every so often, or only
// when operators say so if that is 0.
func (s *Server) Rotation(every time.Duration, lead Lead) *Rotation {
	return &Rotation{server: s, every: every, lead: lead}
}

// Run rotates until ctx is done, while no other process does.
func (r *Rotation) Run(ctx context.Context) error {
	if err := r.lead(ctx, "keys", r.run); err != nil {
		return fmt.Errorf("decide who rotates the signing keys: %w", err)
	}
	return nil
}

func (r *Rotation) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := r.pass(ctx); err != nil && ctx.Err() == nil {
			r.server.log.LogAttrs(ctx, slog.LevelWarn, "signing keys are not rotated; trying again", slog.Any("error", err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// pass publishes the next key if it is time, and deletes those that are over.
func (r *Rotation) pass(ctx context.Context) error {
	return r.change(ctx, func(tx *database.Tx, keys []store.SigningKey, now time.Time) error {
		if due := keys[0].SignsFrom.Add(r.every); r.every > 0 && !due.After(now.Add(publishFor)) {
			if err := r.publish(ctx, tx, latest(due, now.Add(publishFor))); err != nil {
				return err
			}
		}
		for i := 1; i < len(keys); i++ {
			retired := keys[i-1].SignsFrom
			if retired.Add(session.Lifetime + outlive).After(now) {
				continue
			}
			if err := store.DeleteKey(ctx, tx, keys[i].ID); err != nil {
				return err
			}
			r.log(ctx, tx, "a signing key is over", keys[i].ID)
		}
		return nil
	})
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// change has do change the keys, the one that signs last first, and then this
// process know them. Do must leave some.
func (r *Rotation) change(ctx context.Context, do func(tx *database.Tx, keys []store.SigningKey, now time.Time) error) error {
	err := r.server.db.InTx(ctx, func(tx *database.Tx) error {
		keys, err := store.LockKeys(ctx, tx)
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			return errors.New("there is no signing key: the service makes one when it starts")
		}
		return do(tx, keys, time.Now())
	})
	if err != nil {
		return err
	}
	return r.server.keys.read(ctx)
}

func (r *Rotation) publish(ctx context.Context, tx *database.Tx, from time.Time) error {
	k, err := newKey(from)
	if err != nil {
		return err
	}
	r.log(ctx, tx, "a signing key is published", k.ID, slog.Time("signsFrom", from))
	return store.InsertKey(ctx, tx, k)
}

// log tells of what is done once it is.
func (r *Rotation) log(ctx context.Context, tx *database.Tx, what, key string, attrs ...slog.Attr) {
	tx.AfterCommit(func() {
		r.server.log.LogAttrs(ctx, slog.LevelInfo, what, append(attrs, slog.String("key", key))...)
	})
}

// rotate has another key sign as soon as everybody knows it, unless there is one
// already that will.
func (r *Rotation) rotate(ctx context.Context) error {
	return r.change(ctx, func(tx *database.Tx, keys []store.SigningKey, now time.Time) error {
		if keys[0].SignsFrom.After(now) {
			return nil
		}
		return r.publish(ctx, tx, now.Add(publishFor))
	})
}

var errUnknownKey = errors.New("there is no such key")

// withdraw has a key sign no more, and no session count that it has signed. If
// it is the one that signs, another does from now on.
func (r *Rotation) withdraw(ctx context.Context, id string) error {
	return r.change(ctx, func(tx *database.Tx, keys []store.SigningKey, now time.Time) error {
		current, known := signing(keys, now), false
		for i, k := range keys {
			if k.ID != id {
				continue
			}
			known = true
			var err error
			switch {
			case i != current:
			case i > 0: // the next one is known to most already
				err = store.SignFrom(ctx, tx, keys[i-1].ID, now)
			default:
				err = r.publish(ctx, tx, now)
			}
			if err != nil {
				return err
			}
		}
		if !known {
			return errUnknownKey
		}
		if err := store.DeleteKey(ctx, tx, id); err != nil {
			return err
		}
		r.log(ctx, tx, "a signing key is withdrawn", id)
		return r.server.revoke(ctx, tx, session.Revoked{ID: id, ExpiresAt: now.Add(rememberKeys).UTC().Truncate(time.Second)})
	})
}

// keyState is a key as operators see it.
type keyState struct {
	ID        string    `json:"id"`
	State     string    `json:"state"` // published, signing or retired
	SignsFrom time.Time `json:"signsFrom"`
}

// Debug has the pages for operators:
//
//	GET  /debug/keys/          the keys and their states
//	POST /debug/keys/rotate    has another key sign as soon as everybody knows it
//	POST /debug/keys/withdraw  {"id": "…"}: has what the key has signed count no longer
//
// It asks nobody who they are: the admin port is for operators only. Requests
// that a browser makes for another site are refused.
func (r *Rotation) Debug() map[string]http.Handler {
	const path = "/debug/keys/"
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path+"{$}", func(w http.ResponseWriter, _ *http.Request) { r.list(w, nil) })
	mux.HandleFunc("POST "+path+"rotate", func(w http.ResponseWriter, q *http.Request) { r.list(w, r.rotate(q.Context())) })
	mux.HandleFunc("POST "+path+"withdraw", func(w http.ResponseWriter, q *http.Request) {
		var in struct{ ID string }
		if err := json.NewDecoder(http.MaxBytesReader(w, q.Body, 4096)).Decode(&in); err != nil || in.ID == "" {
			http.Error(w, `the body must be {"id": "…"}, with the id of a key`, http.StatusBadRequest)
			return
		}
		r.list(w, r.withdraw(q.Context(), in.ID))
	})
	return map[string]http.Handler{path: http.NewCrossOriginProtection().Handler(mux)}
}

// list answers with the keys, or with err.
func (r *Rotation) list(w http.ResponseWriter, err error) {
	var keys []store.SigningKey
	if err == nil {
		keys, err = r.server.keys.all()
	}
	switch {
	case errors.Is(err, errUnknownKey):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	states := make([]keyState, len(keys))
	current := signing(keys, time.Now())
	for i, k := range keys {
		state := "signing"
		if i < current {
			state = "published"
		} else if i > current {
			state = "retired"
		}
		states[i] = keyState{k.ID, state, k.SignsFrom}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(states) // the client may have gone
}
