package server_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth/internal/server"
	"github.com/turnstile-go/turnstile/services/auth/internal/store"
	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

// process is a process of the service, without its network. It is an
// http.RoundTripper, by which others reach it.
type process struct {
	api      *web.Server
	rotation *server.Rotation
	stop     func() // and wait
}

// boot starts a process that lives until the test ends.
func boot(t *testing.T, db *database.DB, every time.Duration) *process {
	t.Helper()
	hasher, err := user.NewHasher(user.Cost{Memory: 8, Iterations: 1, Parallelism: 1, AtOnce: 4})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	api := web.NewServer("users", web.Config{}, nil, nil, nil)
	keys := server.NewKeyring(db, log)
	sessions := session.NewLocalVerifier(session.Config{}, db, nil, keys)
	api.Authenticate(sessions)
	srv := server.New(db, event.NewOutbox(db, "auth", server.Publishes()...), keys, sessions, session.Config{}, hasher,
		server.NewAttempts(server.Limits{}), log)
	srv.Routes(api.API())
	p := &process{api: api, rotation: srv.Rotation(every, func(ctx context.Context, _ string, do func(context.Context)) error {
		do(ctx)
		return nil
	})}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	if err := keys.Start(ctx); err != nil {
		t.Fatal(err)
	}
	go func() { done <- keys.Run(ctx) }()
	go func() { done <- p.rotation.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		stop()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *process) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	p.api.ServeHTTP(w, r)
	return w.Result(), nil
}

// enter signs somebody up or in and returns the session.
func (p *process) enter(t *testing.T, how string) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/api/users/"+how, strings.NewReader(`{"email": "ada@example.com", "password": "password"}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	p.api.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		return c.Value
	}
	t.Fatalf("%s: %d %s", how, w.Code, w.Body)
	return ""
}

// verifier returns another service's verifier, which lives until the test ends.
func (p *process) verifier(t *testing.T) *session.Verifier {
	t.Helper()
	v := session.NewVerifier(session.Config{JWKSURL: "http://auth/.well-known/jwks.json", Transport: p}, nil, nil)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return v
}

func keysOf(t *testing.T, db *database.DB) []store.SigningKey {
	t.Helper()
	keys, err := store.Keys(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func migrations() []database.Migrations {
	return []database.Migrations{event.Migrations(), session.Migrations(), web.Migrations(), store.Migrations()}
}

// Keys rotate, and nobody is signed out by that, in no service, or has to wait:
// not in auth, and not where the keys are copied.
func TestRotationSignsNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every = time.Hour
		db := databasetest.SQLite(t, migrations()...)
		auth := boot(t, db, every)
		other := auth.verifier(t)
		auth.enter(t, "signup")
		type issued struct {
			token string
			at    time.Time
		}
		var live []issued
		seen := map[string]bool{}
		for began := time.Now(); time.Since(began) < 15*time.Hour; time.Sleep(13 * time.Minute) {
			token := auth.enter(t, "signin")
			live = append(live, issued{token, time.Now()})
			seen[strings.SplitN(token, ".", 2)[0]] = true
			for time.Since(live[0].at) > session.Lifetime-time.Second {
				live = live[1:]
			}
			asked := time.Now()
			for _, i := range live {
				if _, err := other.Verify(t.Context(), i.token); err != nil {
					t.Fatalf("after %v, a session of %v ago: %v", time.Since(began), time.Since(i.at), err)
				}
			}
			if waited := time.Since(asked); waited > 0 {
				t.Errorf("waited %v for keys", waited)
			}
			if n := len(keysOf(t, db)); n > 16 {
				t.Fatalf("after %v there are %d keys", time.Since(began), n)
			}
		}
		if n := len(seen); n != 15 {
			t.Errorf("%d keys have signed in 15 hours", n)
		}
		if n := len(keysOf(t, db)); n < 13 {
			t.Errorf("there are %d keys: what the others have signed is still valid", n)
		}
	})
}

// Without a schedule the key stays; and of processes that all think that they
// lead, and rotate at once, one does.
func TestRotationBySeveral(t *testing.T) {
	for every, want := range map[time.Duration]int{0: 1, time.Hour: 3} {
		synctest.Test(t, func(t *testing.T) {
			db := databasetest.SQLite(t, migrations()...)
			for range 3 {
				boot(t, db, every)
			}
			time.Sleep(2*time.Hour + time.Minute)
			if n := len(keysOf(t, db)); n != want {
				t.Errorf("every %v: there are %d keys after two hours, want %d", every, n, want)
			}
		})
	}
}

// state is what operators see of a key.
type state struct {
	ID, State string
	SignsFrom time.Time
}

// order has an operator ask for something, and returns the keys' states.
func (p *process) order(t *testing.T, method, path, body string, status int) (states []state) {
	t.Helper()
	r := httptest.NewRequest(method, "/debug/keys/"+path, strings.NewReader(body))
	w := httptest.NewRecorder()
	p.rotation.Debug()["/debug/keys/"].ServeHTTP(w, r)
	if w.Code != status {
		t.Fatalf("%s %s %s: %d %s", method, path, body, w.Code, w.Body)
	}
	if status == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &states); err != nil {
			t.Fatalf("%v in %s", err, w.Body)
		}
	}
	if strings.Contains(w.Body.String(), "Private") || strings.Contains(strings.ToLower(w.Body.String()), "seed") {
		t.Errorf("operators see more than they should: %s", w.Body)
	}
	return states
}

func TestOperatorsRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := databasetest.SQLite(t, migrations()...)
		auth, sibling := boot(t, db, 0), boot(t, db, 0)
		other := auth.verifier(t)
		old := auth.enter(t, "signup")
		before := auth.order(t, "GET", "", "", http.StatusOK)
		if len(before) != 1 || before[0].State != "signing" {
			t.Fatalf("at first the keys are %v", before)
		}
		for range 2 { // the second time there is nothing to do
			after := auth.order(t, "POST", "rotate", "", http.StatusOK)
			if len(after) != 2 || after[0].State != "published" || after[1] != before[0] {
				t.Fatalf("the keys are %v", after)
			}
		}
		first := strings.SplitN(old, ".", 2)[0]
		time.Sleep(9 * time.Minute)
		if token := auth.enter(t, "signin"); !strings.HasPrefix(token, first) {
			t.Error("the new key signs before everybody can know it")
		}
		time.Sleep(time.Minute + time.Second)
		for _, p := range []*process{auth, sibling} {
			young := p.enter(t, "signin")
			if strings.HasPrefix(young, first) {
				t.Error("the old key still signs")
			}
			for name, token := range map[string]string{"old": old, "new": young} {
				if _, err := other.Verify(t.Context(), token); err != nil {
					t.Errorf("the %s session: %v", name, err)
				}
			}
		}
		if now := auth.order(t, "GET", "", "", http.StatusOK); len(now) != 2 || now[0].State != "signing" || now[1].State != "retired" {
			t.Errorf("then the keys are %v", now)
		}
		auth.stop()
		sibling.stop()
		time.Sleep(session.Lifetime + 12*time.Minute)
		auth = boot(t, db, 0)
		synctest.Wait()
		if n := len(keysOf(t, db)); n != 1 {
			t.Errorf("there are %d keys after all sessions of the old one have expired", n)
		}
		auth.order(t, "POST", "withdraw", `{"id": "unknown"}`, http.StatusNotFound)
		auth.order(t, "POST", "withdraw", `{}`, http.StatusBadRequest)
		auth.order(t, "POST", "withdraw", `garbage`, http.StatusBadRequest)
		auth.order(t, "GET", "rotate", "", http.StatusMethodNotAllowed)
	})
}

// A process that starts makes no key where there is one, also when the very first
// is gone: nobody would know the new one, and it would sign at once.
func TestAStartMakesNoSecondKey(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, auth *process){
		"retired": func(t *testing.T, auth *process) {
			auth.order(t, "POST", "rotate", "", http.StatusOK)
			time.Sleep(10*time.Minute + session.Lifetime + 12*time.Minute)
		},
		"withdrawn": func(t *testing.T, auth *process) {
			first := auth.order(t, "GET", "", "", http.StatusOK)[0]
			auth.order(t, "POST", "withdraw", `{"id": "`+first.ID+`"}`, http.StatusOK)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db := databasetest.SQLite(t, migrations()...)
				auth := boot(t, db, 0)
				first := keysOf(t, db)[0].ID
				leave(t, auth)
				before := keysOf(t, db)
				if len(before) != 1 || before[0].ID == first {
					t.Fatalf("there are %d keys before the start, or the first is still there", len(before))
				}
				boot(t, db, 0)
				if after := keysOf(t, db); len(after) != 1 || after[0].ID != before[0].ID {
					t.Errorf("there are %d keys after the start, want the one that was there before", len(after))
				}
			})
		})
	}
}

// A key that is withdrawn, whatever its state, takes its sessions with it, and
// those of no other; there is always one that signs.
func TestOperatorsWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := databasetest.SQLite(t, migrations()...)
		auth, sibling := boot(t, db, 0), boot(t, db, 0)
		me := func(p *process, token string) bool {
			r := httptest.NewRequest(http.MethodGet, "/api/users/currentuser", nil)
			r.AddCookie(&http.Cookie{Name: session.Cookie, Value: token})
			w := httptest.NewRecorder()
			p.api.ServeHTTP(w, r)
			return !strings.Contains(w.Body.String(), "null")
		}
		withdraw := func(state string) {
			t.Helper()
			for _, k := range auth.order(t, "GET", "", "", http.StatusOK) {
				if k.State == state {
					auth.order(t, "POST", "withdraw", `{"id": "`+k.ID+`"}`, http.StatusOK)
					time.Sleep(6 * time.Second) // until the sibling has read it
					return
				}
			}
			t.Fatalf("no key is %s", state)
		}
		first := auth.enter(t, "signup")
		withdraw("signing") // and there is no other
		second := sibling.enter(t, "signin")
		auth.order(t, "POST", "rotate", "", http.StatusOK)
		withdraw("signing") // and the next one is published
		third := sibling.enter(t, "signin")
		auth.order(t, "POST", "rotate", "", http.StatusOK)
		time.Sleep(11 * time.Minute)
		fourth := sibling.enter(t, "signin")
		for _, p := range []*process{auth, sibling} {
			if me(p, first) || me(p, second) || !me(p, third) || !me(p, fourth) {
				t.Errorf("of four sessions count: %v %v %v %v", me(p, first), me(p, second), me(p, third), me(p, fourth))
			}
		}
		withdraw("retired")
		for _, p := range []*process{auth, sibling} {
			if me(p, third) || !me(p, fourth) {
				t.Errorf("of the last two sessions count: %v %v", me(p, third), me(p, fourth))
			}
		}
		auth.order(t, "POST", "rotate", "", http.StatusOK)
		withdraw("published")
		if !me(auth, fourth) || len(keysOf(t, db)) != 1 {
			t.Errorf("the last session counts: %v; there are %d keys", me(auth, fourth), len(keysOf(t, db)))
		}
	})
}
