// Package servicetest tests a service whole: in the test process, as it runs in
// production but for its surroundings, which are a database and a broker of the
// test's own and stand-ins for all other services. Nothing is mocked: requests
// go over HTTP, and events through the database's outbox and the broker.
//
//	func TestMain(m *testing.M) { servicetest.Main(m) }
//
//	func TestReserve(t *testing.T) {
//		servicetest.Each(t, func(t *testing.T, on servicetest.Database) {
//			s := servicetest.Start(t, "tickets", service.Assemble, on)
//			others := eventtest.NewPeer(t, s.Broker, orders.Created{}) // which publishes these
//			eventtest.Hear[tickets.Updated](others)                   // and hears those
//			others.Start()
//
//			var tk struct{ ID string }
//			s.Want(http.StatusCreated, &tk, "ada", "POST", "/api/tickets", `{"title":"Opera","price":20}`)
//			others.Publish(orders.Created{ID: "o", Ticket: orders.Ticket{ID: tk.ID}})
//			eventtest.AwaitEqual(others, tickets.Updated{ID: tk.ID, Title: "Opera", Price: 2000, UserID: "ada", Version: 1, OrderID: "o"})
//			s.Refused(http.StatusConflict, []string{"Cannot delete a reserved ticket"}, "ada", "DELETE", "/api/tickets/"+tk.ID, nil)
//		})
//	}
package servicetest

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/web/session/sessiontest"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// Main is the TestMain of a service's tests. It runs them, and fails if they
// pass but leave goroutines behind.
func Main(m *testing.M) { goleak.VerifyTestMain(m) }

// Database is an empty database, and how many processes of the service share
// it. Make it with [SQLite] or [Postgres].
type Database struct {
	URL       string // as in DATABASE_URL
	Processes int    // that [Start] starts
}

// SQLite returns a database in a file of its own, for one process.
func SQLite(t testing.TB) Database {
	t.Helper()
	return Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "test.db"), Processes: 1}
}

// Postgres returns a database in PostgreSQL for two processes, which so share
// the group of their listeners too. Where PostgreSQL is not installed it skips
// the test, or fails it if CI is set.
func Postgres(t testing.TB) Database {
	t.Helper()
	return Database{URL: databasetest.PostgresURL(t), Processes: 2}
}

// Each runs test as two subtests, one on each kind of database.
func Each(t *testing.T, test func(t *testing.T, on Database)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, Postgres(t)) })
}

// Service is a service under test, in one or more processes: each is a whole
// run of the service, with connections and listeners of its own.
type Service struct {
	// Broker is what the processes, and an [eventtest.Peer] in the place of
	// other services, are connected to. It does no harm unless told to.
	Broker *eventtest.Broker
	// URLs are where the processes answer, without a slash at the end, in the
	// order in which they were started, AdminURLs where their admin servers do.
	// Boot and Stop change them.
	URLs, AdminURLs []string

	t         testing.TB
	issuer    *sessiontest.Issuer
	run       func(context.Context, framework.Options) error
	environ   []string
	processes []*process
	turn      atomic.Int64
	tokens    map[string]string // of Compare, by user
}

// Start starts the service that assemble builds, in as many processes at once
// as the database says, and returns when all are ready. They are stopped when
// the test ends, and an error of any of them fails it.
//
// They get their addresses, database and the place of session keys as
// environment variables, and those in environ, as NAME=value, on top. The part
// that serves HTTP is the one that is added as "http".
func Start[C any](
	t testing.TB, name string, assemble func(*framework.Service, C, ...event.Broker) error, on Database, environ ...string,
) *Service {
	t.Helper()
	s := &Service{t: t, Broker: eventtest.NewBroker(eventtest.Faults{}), issuer: sessiontest.New(t)}
	t.Cleanup(s.Broker.Close)
	s.run = func(ctx context.Context, o framework.Options) error {
		return framework.Run(ctx, name, func(fs *framework.Service, c C) error { return assemble(fs, c, s.Broker) }, o)
	}
	s.environ = append([]string{
		"DATABASE_URL=" + on.URL, "HTTP_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "DRAIN_DELAY=0s",
		"SESSION_JWKS_URL=" + s.issuer.Config.JWKSURL, "LOG_LEVEL=WARN",
	}, environ...)
	s.boot(on.Processes)
	return s
}

// Boot starts one more process and returns when it is ready.
func (s *Service) Boot() {
	s.t.Helper()
	s.boot(1)
}

// Stop stops all processes, as SIGTERM does, and returns when they are gone.
// Boot starts the service again.
func (s *Service) Stop() {
	s.t.Helper()
	for _, p := range s.processes {
		p.stop()
	}
	s.processes, s.URLs, s.AdminURLs = nil, nil, nil
}

func (s *Service) boot(n int) {
	s.t.Helper()
	booting := make([]*process, n)
	for i := range booting {
		booting[i] = s.begin()
	}
	late := time.After(patience)
	for _, p := range booting {
		select {
		case addresses := <-p.ready:
			s.processes = append(s.processes, p)
			s.URLs = append(s.URLs, "http://"+addresses["http"])
			s.AdminURLs = append(s.AdminURLs, "http://"+addresses["admin"])
		case <-p.done:
			s.t.Fatal("servicetest: a process has stopped before it was ready") // p.stop tells why
		case <-late:
			s.t.Fatalf("servicetest: a process is not ready after %v", patience)
		}
	}
}

type process struct {
	ready chan map[string]string
	done  chan struct{} // closed when the process has stopped
	stop  func()        // and wait
}

func (s *Service) begin() *process {
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{ready: make(chan map[string]string, 1), done: make(chan struct{})}
	var err error
	go func() {
		defer close(p.done)
		err = s.run(ctx, framework.Options{
			Environ: s.environ, Stdout: s.t.Output(), Stderr: s.t.Output(),
			Ready: func(addresses map[string]string) { p.ready <- addresses },
		})
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if <-p.done; err != nil {
			s.t.Errorf("servicetest: %v", err)
		}
	})
	s.t.Cleanup(p.stop)
	return p
}

// Eventually waits for what nothing signals, such as that the service has heard
// of an event: until check returns nil. If that takes a minute the test fails
// with what check returned last.
func (s *Service) Eventually(check func() error) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("servicetest: waited %v in vain: %v", patience, err)
		}
	}
}
