package service_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/orders/service"
)

const name = "orders"

// patience is how long a test waits for what must happen.
const patience = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// harness is the service, whole, on a database and a broker of the test's own,
// with a peer in the place of all other services.
type harness struct {
	t       *testing.T
	key     session.Key
	broker  *eventtest.Broker
	peer    *peer
	environ []string

	stop func()   // stops the first process of the service
	urls []string // of the processes of the service, which take turns
	turn atomic.Int64
}

// onBoth runs a test of the whole service on each kind of database: one process
// on SQLite, two on PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, h *harness), environ ...string) {
	t.Run("sqlite", func(t *testing.T) { test(t, start(t, sqlite(t), environ...)) })
	t.Run("postgres", func(t *testing.T) {
		h := start(t, databasetest.PostgresURL(t), environ...)
		h.boot()
		test(t, h)
	})
}

func sqlite(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "test.db") }

func start(t *testing.T, databaseURL string, environ ...string) *harness {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, key: session.Key{ID: "test", Private: private}, broker: eventtest.NewBroker(eventtest.Faults{})}
	t.Cleanup(h.broker.Close)
	h.peer = newPeer(t, h.broker)
	keys, err := session.PublicSet(h.key)
	if err != nil {
		t.Fatal(err)
	}
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(keys)
	}))
	t.Cleanup(auth.Close)
	h.environ = append([]string{
		"DATABASE_URL=" + databaseURL, "HTTP_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "DRAIN_DELAY=0s",
		"SESSION_JWKS_URL=" + auth.URL, "LOG_LEVEL=WARN",
	}, environ...)
	h.stop = h.boot()
	return h
}

// boot starts a process of the service, and returns what stops it before the
// test ends.
func (h *harness) boot() (stop func()) {
	h.t.Helper()
	ready := make(chan map[string]string, 1)
	halt := run(h.t, func(ctx context.Context) error {
		return framework.Run(ctx, name, func(s *framework.Service, cfg service.Config) error {
			return service.Assemble(s, cfg, h.broker)
		}, framework.Options{
			Environ: h.environ, Stdout: h.t.Output(),
			Ready: func(addresses map[string]string) { ready <- addresses },
		})
	})
	select {
	case addresses := <-ready:
		url := "http://" + addresses["http"]
		h.urls = append(h.urls, url)
		return func() {
			h.urls = slices.DeleteFunc(h.urls, func(u string) bool { return u == url })
			halt()
		}
	case <-time.After(patience):
		h.t.Fatal("the service is not ready")
		return nil
	}
}

// run runs f until it is stopped, at the end of the test at the latest, and
// waits for it then.
func run(t *testing.T, f func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// response is what the service answered.
type response struct {
	status int
	header http.Header
	body   []byte
}

func (r response) String() string { return fmt.Sprintf("%d %s", r.status, r.body) }

// call sends a request of a user, anonymous if that is empty. The body is sent
// as it is if it is a string, else as JSON; the headers are given as names and
// values by turns.
func (h *harness) call(user, method, path string, body any, headers ...string) (response, error) {
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return response{}, err
		}
		content = bytes.NewReader(data)
	}
	url := h.urls[h.turn.Add(1)%int64(len(h.urls))]
	r, err := http.NewRequest(method, url+path, content)
	if err != nil {
		return response{}, err
	}
	r.Close = true // so that no idle connection is left
	if content != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if user != "" {
		sessions := session.Config{Issuer: "turnstile", Audience: "turnstile"}
		token, _, err := sessions.Sign(h.key, session.Caller{ID: user, Email: user + "@example.com"}, time.Now())
		if err != nil {
			return response{}, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return response{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return response{status: res.StatusCode, header: res.Header, body: data}, err
}

// want is call for a request whose status is known beforehand. It decodes the
// answer into to, unless that is nil.
func (h *harness) want(status int, to any, user, method, path string, body any, headers ...string) response {
	h.t.Helper()
	res, err := h.call(user, method, path, body, headers...)
	if err != nil {
		h.t.Fatal(err)
	}
	if res.status != status {
		h.t.Fatalf("%s %s %v: %v; want %d", method, path, body, res, status)
	}
	if to != nil {
		if err := json.Unmarshal(res.body, to); err != nil {
			h.t.Fatalf("%s %s: %v: %v", method, path, err, res)
		}
	}
	return res
}

// refused is want for an error, with the messages that it must have.
func (h *harness) refused(status int, messages []string, user, method, path string, body any, headers ...string) {
	h.t.Helper()
	var problem struct {
		Status int
		Errors []struct{ Message, Field string }
	}
	res := h.want(status, &problem, user, method, path, body, headers...)
	var got []string
	for _, e := range problem.Errors {
		got = append(got, e.Message)
	}
	if res.header.Get("Content-Type") != "application/problem+json" || problem.Status != status || len(got) == 0 ||
		messages != nil && strings.Join(got, "; ") != strings.Join(messages, "; ") {
		h.t.Errorf("%s %s %v: %v; want %d with %q", method, path, body, res, status, messages)
	}
}

// peer publishes what other services would, and hears what this one publishes.
type peer struct {
	t      *testing.T
	db     *database.DB
	outbox *event.Outbox

	mu    sync.Mutex
	heard []event.Event
	more  chan struct{} // closed when something was heard
}

func newPeer(t *testing.T, broker event.Broker) *peer {
	db := databasetest.SQLite(t, event.Migrations())
	p := &peer{t: t, db: db, outbox: event.NewOutbox(db, "peer", foreign...), more: make(chan struct{})}
	l := event.NewListener(db, "peer")
	listen(p, l)
	run(t, event.NewClient(event.Config{}, broker, p.outbox, l, event.Telemetry{}).Run)
	return p
}

func hear[E event.Event](p *peer, l *event.Listener) {
	event.Handle(l, func(_ context.Context, tx *database.Tx, m *event.Message[E]) error {
		tx.AfterCommit(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.heard = append(p.heard, m.Data)
			close(p.more)
			p.more = make(chan struct{})
		})
		return nil
	})
}

// publish publishes events in one transaction.
func (p *peer) publish(events ...event.Event) {
	p.t.Helper()
	err := p.db.InTx(p.t.Context(), func(tx *database.Tx) error {
		for _, e := range events {
			if err := p.outbox.Publish(p.t.Context(), tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		p.t.Error(err) // not Fatal: any goroutine may publish
	}
}

// await waits for an event and returns every event of that type that was heard
// so far with the same key, oldest first.
func await[E interface {
	event.Event
	comparable
}](p *peer, want E) (all []E) {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		more, found := p.more, false
		all = nil
		for _, e := range p.heard {
			if e, ok := e.(E); ok && e.Meta() == want.Meta() {
				all = append(all, e)
				found = found || e == want
			}
		}
		p.mu.Unlock()
		if found {
			return all
		}
		select {
		case <-more:
		case <-timeout:
			p.t.Fatalf("no %+v was heard, only %+v", want, all)
		}
	}
}
