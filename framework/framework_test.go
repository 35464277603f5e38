package framework_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		childMain()
		return
	}
	goleak.VerifyTestMain(m)
}

// none is the configuration of services that take none.
type none struct{}

// fake is a part made of functions; what is nil does nothing.
type fake struct {
	start    func(ctx context.Context) error
	run      func(ctx context.Context) error
	ready    func() map[string]error
	migrate  func(ctx context.Context) error
	describe map[string]any
	debug    map[string]http.Handler
	close    func() error
}

func (f *fake) Start(ctx context.Context) error {
	if f.start == nil {
		return nil
	}
	return f.start(ctx)
}

func (f *fake) Run(ctx context.Context) error {
	if f.run == nil {
		<-ctx.Done()
		return nil
	}
	return f.run(ctx)
}

func (f *fake) Ready() map[string]error {
	if f.ready == nil {
		return nil
	}
	return f.ready()
}

func (f *fake) Migrate(ctx context.Context) error {
	if f.migrate == nil {
		return nil
	}
	return f.migrate(ctx)
}

func (f *fake) Describe() map[string]any { return f.describe }

func (f *fake) Debug() map[string]http.Handler { return f.debug }

func (f *fake) Close() error {
	if f.close == nil {
		return nil
	}
	return f.close()
}

// bare is a part with nothing but Run.
type bare func(ctx context.Context) error

func (b bare) Run(ctx context.Context) error { return b(ctx) }

func waits(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// server is a part that answers HTTP requests as the packages of the framework do it.
type server struct {
	handler  http.Handler
	listener net.Listener
}

func (s *server) Start(context.Context) (err error) {
	s.listener, err = net.Listen("tcp", "127.0.0.1:0")
	return err
}

func (s *server) Run(ctx context.Context) error {
	h := &http.Server{Handler: s.handler, ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- h.Serve(s.listener) }()
	<-ctx.Done()
	err := h.Shutdown(context.WithoutCancel(ctx))
	<-served
	return err
}

func (s *server) Addr() string { return s.listener.Addr().String() }

// service is a service that a test runs.
type service struct {
	t         *testing.T
	log       *buffer
	signals   chan os.Signal
	addresses chan map[string]string
	result    chan error
}

// run runs a service with the environment; probes listen on a port of their own, and there is no drain delay.
func run(t *testing.T, build func(s *framework.Service) error, environ ...string) *service {
	t.Helper()
	s := &service{
		t: t, log: new(buffer), signals: make(chan os.Signal, 2),
		addresses: make(chan map[string]string, 1), result: make(chan error, 1),
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.result <- framework.Run(ctx, "test", func(s *framework.Service, _ none) error { return build(s) }, framework.Options{
			Environ: append([]string{"ADMIN_ADDR=127.0.0.1:0", "DRAIN_DELAY=0s", "LOG_LEVEL=debug"}, environ...),
			Stdout:  s.log, Stderr: s.log, Signals: s.signals,
			Ready: func(addresses map[string]string) { s.addresses <- addresses },
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("log of the service:\n%s", s.log.String())
		}
	})
	return s
}

// ready waits until the service is ready.
func (s *service) ready() map[string]string {
	s.t.Helper()
	select {
	case addresses := <-s.addresses:
		return addresses
	case err := <-s.result:
		s.t.Fatalf("stopped before it was ready: %v", err)
	case <-time.After(10 * time.Second):
		s.t.Fatal("not ready after 10 s")
	}
	return nil
}

// logs waits until the service has logged the message, and returns the line.
func (s *service) logs(message string) map[string]any {
	s.t.Helper()
	for {
		more := s.log.next()
		if entries := s.log.entries(s.t, message); len(entries) > 0 {
			return entries[0]
		}
		select {
		case <-more:
		case err := <-s.result:
			s.t.Fatalf("stopped before it logged %q: %v", message, err)
		case <-time.After(10 * time.Second):
			s.t.Fatalf("%q is not logged after 10 s", message)
		}
	}
}

// probes waits until the service answers probes, and returns its base URL for that.
func (s *service) probes() string {
	s.t.Helper()
	return fmt.Sprint("http://", s.logs("service starting")["admin"])
}

func (s *service) signal() { s.signals <- syscall.SIGTERM }

// ended waits for what Run returns.
func (s *service) ended() error {
	s.t.Helper()
	select {
	case err := <-s.result:
		return err
	case <-time.After(10 * time.Second):
		s.t.Fatal("not stopped after 10 s")
		return nil
	}
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	written chan struct{} // closed at the next write
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.written != nil {
		close(b.written)
		b.written = nil
	}
	return b.b.Write(p)
}

// next is closed when there is more than there is now.
func (b *buffer) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.written == nil {
		b.written = make(chan struct{})
	}
	return b.written
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// entries are the JSON lines with the message.
func (b *buffer) entries(t *testing.T, message string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(b.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("log line is not JSON: %s", line)
		}
		if entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}

// client keeps no connections, so that none outlives a test.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second} //nolint:gochecknoglobals // stateless

// get returns status and body.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// probe is an answer of /readyz or /startupz.
type probe struct {
	Code   int
	Status string            `json:"status"`
	Checks map[string]string `json:"checks"`
}

func ask(t *testing.T, url string) probe {
	t.Helper()
	code, body := get(t, url)
	p := probe{Code: code}
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%s is not JSON: %s", url, body)
	}
	return p
}

// until asks until want says that the answer is the one.
func until(t *testing.T, url string, want func(probe) bool) probe {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		p := ask(t, url)
		if want(p) {
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s still answers %+v", url, p)
		}
	}
}

// journal is what happened, in order.
type journal struct {
	mu     sync.Mutex
	events []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, fmt.Sprintf(format, args...))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.events, ", ")
}

// part is a part that writes down what it is told. It is ready when Run has been called.
func (j *journal) part(name string) *fake {
	var running atomic.Bool
	return &fake{
		start:   func(context.Context) error { j.add("start %s", name); return nil },
		migrate: func(context.Context) error { j.add("migrate %s", name); return nil },
		run: func(ctx context.Context) error {
			if ctx.Err() != nil {
				j.add("release %s", name)
				return nil
			}
			running.Store(true)
			<-ctx.Done()
			j.add("stop %s", name)
			return nil
		},
		ready: func() map[string]error {
			if !running.Load() {
				return map[string]error{name: errors.New("not running")}
			}
			return nil
		},
	}
}

func TestPartsStartInOrderAndStopInReverse(t *testing.T) {
	t.Parallel()
	var j journal
	s := run(t, func(s *framework.Service) error {
		for _, name := range []string{"database", "events", "http"} {
			s.Add(name, j.part(name))
		}
		return nil
	})
	s.ready()
	s.signal()
	if err := s.ended(); err != nil {
		t.Fatal(err)
	}
	want := "start database, start events, start http, stop http, stop events, stop database"
	if got := j.String(); got != want {
		t.Errorf("happened: %s\nwant: %s", got, want)
	}
}

func TestNoPartRunsBeforeTheLastHasStarted(t *testing.T) {
	t.Parallel()
	var ran bool
	s := run(t, func(s *framework.Service) error {
		s.Add("first", &fake{run: func(ctx context.Context) error { ran = true; return waits(ctx) }})
		s.Add("second", &fake{start: func(context.Context) error {
			if ran { // the race detector would tell, too
				return errors.New("first runs already")
			}
			return nil
		}})
		return nil
	})
	s.ready()
}

func TestEndOfTheContextIsASignalToo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	err := framework.Run(ctx, "test", func(s *framework.Service, _ none) error {
		s.Add("part", bare(waits))
		return nil
	}, framework.Options{
		Environ: []string{"ADMIN_ADDR=127.0.0.1:0", "DRAIN_DELAY=0s"},
		Ready:   func(map[string]string) { cancel() },
	})
	if err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestServiceReadyIsLoggedWithAddresses(t *testing.T) {
	t.Parallel()
	s := run(t, func(s *framework.Service) error {
		s.Add("http", &server{handler: http.NotFoundHandler()})
		return nil
	})
	addresses := s.ready()
	if code, _ := get(t, "http://"+addresses["http"]); code != http.StatusNotFound {
		t.Errorf("the part answers %d at the address it gave", code)
	}
	entries := s.log.entries(t, "service ready")
	if len(entries) != 1 || entries[0]["http"] != addresses["http"] || entries[0]["admin"] != addresses["admin"] ||
		entries[0]["service"] != "test" {
		t.Errorf("logged %v, want one line with %v", entries, addresses)
	}
}

func TestReadyFile(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/ready.json"
	if err := os.WriteFile(file, []byte("of an earlier process"), 0o600); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	stale := make(chan bool, 1)
	s := run(t, func(s *framework.Service) error {
		s.Add("http", &server{handler: http.NotFoundHandler()})
		s.Add("slow", &fake{start: func(context.Context) error {
			_, err := os.Stat(file)
			stale <- err == nil
			<-release
			return nil
		}})
		return nil
	}, "READY_FILE="+file)
	if <-stale {
		t.Error("the file of an earlier process is there before the service is ready")
	}
	close(release)
	addresses := s.ready()

	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Name, Admin string
		Addresses   map[string]string
		PID         int
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "test" || got.Admin != addresses["admin"] || len(got.Addresses) != 1 ||
		got.Addresses["http"] != addresses["http"] || got.PID != os.Getpid() {
		t.Errorf("READY_FILE has %s, want test, %v and %d", text, addresses, os.Getpid())
	}
}

func TestReadyFileThatCannotBeWrittenIsLogged(t *testing.T) {
	t.Parallel()
	s := run(t, func(s *framework.Service) error {
		s.Add("part", bare(waits))
		return nil
	}, "READY_FILE="+t.TempDir()+"/missing/ready.json", "ADMIN_ADDR=:0")
	if addresses := s.ready(); !strings.HasPrefix(addresses["admin"], "127.0.0.1:") {
		t.Errorf("the admin server is at %s, which is no address to call", addresses["admin"])
	}
	s.logs("READY_FILE is not written")
}

func TestPartThatFailsStopsTheService(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk is full")
	for name, c := range map[string]struct {
		part framework.Part
		want []string
	}{
		"error in Run":         {&fake{run: func(context.Context) error { return broken }}, []string{"part bad: disk is full"}},
		"return from Run":      {&fake{run: func(context.Context) error { return nil }}, []string{"part bad returned without having been told to"}},
		"panic in Run":         {&fake{run: func(context.Context) error { panic("index out of luck") }}, []string{"part bad: panic: index out of luck", "framework_test.go"}},
		"panic in Start":       {&fake{start: func(context.Context) error { panic("index out of luck") }}, []string{"start bad: panic: index out of luck", "framework_test.go"}},
		"permanent Start":      {&fake{start: func(context.Context) error { return fmt.Errorf("open: %w", permanent{broken}) }}, []string{"start bad: open: disk is full"}},
		"address that is used": {&fake{start: listenTwice}, []string{"start bad", "address already in use"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var j journal
			s := run(t, func(s *framework.Service) error {
				s.Add("good", j.part("good"))
				s.Add("bad", c.part)
				return nil
			})
			err := s.ended()
			if err == nil {
				t.Fatal("Run = nil")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Run = %v\nwant: %s", err, want)
				}
			}
			if logged := s.log.entries(t, "service failed"); len(logged) != 1 || !strings.Contains(fmt.Sprint(logged[0]["error"]), c.want[0]) {
				t.Errorf("logged %v, want what failed", logged)
			}
			if got := j.String(); got != "start good, stop good" && got != "start good, release good" {
				t.Errorf("the other part: %s", got)
			}
		})
	}
}

func listenTwice(context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	if _, err := net.Listen("tcp", l.Addr().String()); err != nil {
		return fmt.Errorf("web: %w", err)
	}
	return nil
}

type permanent struct{ error }

func (permanent) Permanent() bool { return true }

func TestStartIsTriedAgainWhileADependencyIsAway(t *testing.T) {
	t.Parallel()
	attempts := 0
	s := run(t, func(s *framework.Service) error {
		s.Add("database", &fake{start: func(context.Context) error {
			if attempts++; attempts <= 2 {
				return errors.New("connection refused")
			}
			return nil
		}})
		return nil
	})
	s.ready()
	if attempts != 3 {
		t.Errorf("Start was called %d times, want 3", attempts)
	}
	logged := s.log.entries(t, "part does not start, trying again")
	if len(logged) != 2 || logged[1]["part"] != "database" || logged[1]["error"] != "connection refused" || logged[1]["attempt"] != 2.0 {
		t.Errorf("logged %v, want both failures", logged)
	}
}

type noticed struct{ error }

func (noticed) Notice() string  { return "MigrationFailed" }
func (noticed) Permanent() bool { return true }

// Why a part does not start is told where people look at the service, if the
// error says so: at every try, in the same words, and before the service ends of it.
func TestPeopleAreToldWhyAPartDoesNotStart(t *testing.T) {
	t.Parallel()
	attempts := 0
	told := make(chan framework.Notice, 10)
	s := run(t, func(s *framework.Service) error {
		s.OnNotice(func(n framework.Notice) { told <- n })
		s.Add("database", &fake{start: func(context.Context) error {
			switch attempts++; attempts {
			case 1:
				return errors.New("connection refused")
			case 2, 3:
				return fmt.Errorf("migrate: %w", noticeOnly{})
			}
			return noticed{errors.New("no such table")}
		}})
		return nil
	})
	if err := s.ended(); err == nil {
		t.Error("Run = nil")
	}
	const again = "MigrationFailed WARN part does not start, trying again (part=database, error=migrate: a column is missing)"
	for _, want := range []string{again, again, "MigrationFailed ERROR part does not start (part=database, error=no such table)"} {
		n := <-told
		if got := fmt.Sprintf("%s %s %s", n.Reason, n.Level, n.Text); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	if len(told) > 0 {
		t.Errorf("told of %v, too", <-told)
	}
}

type noticeOnly struct{}

func (noticeOnly) Error() string  { return "a column is missing" }
func (noticeOnly) Notice() string { return "MigrationFailed" }

func TestProbesAnswerWhileStarting(t *testing.T) {
	t.Parallel()
	failing := make(chan struct{})
	var away sync.Mutex // held while the database is away
	away.Lock()
	var once sync.Once
	s := run(t, func(s *framework.Service) error {
		s.Add("database", &fake{start: func(context.Context) error {
			once.Do(func() { close(failing) })
			if !away.TryLock() {
				return errors.New("connection refused")
			}
			return nil
		}})
		s.Add("http", bare(waits))
		return nil
	})
	admin := s.probes()
	<-failing
	if code, _ := get(t, admin+"/livez"); code != http.StatusOK {
		t.Errorf("/livez answers %d while starting", code)
	}
	for _, path := range []string{"/startupz", "/readyz"} {
		p := until(t, admin+path, func(p probe) bool { return p.Checks["database"] == "connection refused" })
		if p.Code != http.StatusServiceUnavailable || p.Status != "unready" || p.Checks["http"] != "not started" {
			t.Errorf("%s answers %+v while the database is away", path, p)
		}
	}
	away.Unlock()
	s.ready()
	for _, path := range []string{"/startupz", "/readyz"} {
		if p := ask(t, admin+path); p.Code != http.StatusOK || p.Checks["database"] != "ok" || p.Checks["http"] != "ok" {
			t.Errorf("%s answers %+v once started", path, p)
		}
	}
}

func TestSignalWhileStarting(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(context.Context) error{
		"waiting": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"failing": func(context.Context) error { return errors.New("connection refused") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var j journal
			starting := make(chan struct{})
			var once sync.Once
			s := run(t, func(s *framework.Service) error {
				s.Add("database", j.part("database"))
				s.Add("bare", bare(func(context.Context) error { j.add("run bare"); return nil }))
				s.Add("events", &fake{
					start: func(ctx context.Context) error { once.Do(func() { close(starting) }); return start(ctx) },
					run:   func(context.Context) error { j.add("run events"); return nil },
					close: func() error { j.add("close events"); return nil },
				})
				s.Add("http", j.part("http"))
				return nil
			})
			<-starting
			s.signal()
			if err := s.ended(); err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
			if got, want := j.String(), "start database, release database, close events"; got != want {
				t.Errorf("happened: %s\nwant: %s", got, want)
			}
		})
	}
}

// away is an error that a service can work with, once it has been ready.
type away struct{ error }

func (away) Degraded() bool { return true }

func TestReadiness(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	checks := map[string]error{"database": nil, "broker": fmt.Errorf("connect: %w", away{errors.New("no servers")})}
	set := func(name string, err error) {
		mu.Lock()
		defer mu.Unlock()
		checks[name] = err
	}
	asked := make(chan struct{}, 1)
	s := run(t, func(s *framework.Service) error {
		s.Add("events", &fake{ready: func() map[string]error {
			select {
			case asked <- struct{}{}:
			default:
			}
			mu.Lock()
			defer mu.Unlock()
			return map[string]error{"database": checks["database"], "broker": checks["broker"]}
		}})
		s.Add("second", &fake{ready: func() map[string]error { return map[string]error{"broker": nil} }})
		return nil
	})
	admin := s.probes()
	expect := func(path string, code int, status, database, broker string) {
		t.Helper()
		p := ask(t, admin+path)
		if p.Code != code || p.Status != status || p.Checks["database"] != database || p.Checks["broker"] != broker || p.Checks["second/broker"] != "ok" {
			t.Errorf("%s answers %+v, want %d %s, database %s, broker %s", path, p, code, status, database, broker)
		}
	}

	<-asked
	expect("/readyz", 503, "unready", "ok", "connect: no servers") // it has not been ready yet: all must be there
	expect("/startupz", 503, "unready", "ok", "connect: no servers")

	set("broker", nil)
	s.ready()
	expect("/readyz", 200, "ready", "ok", "ok")
	expect("/startupz", 200, "ready", "ok", "ok")

	set("broker", away{errors.New("no servers")})
	expect("/readyz", 200, "degraded", "ok", "no servers")
	expect("/startupz", 200, "degraded", "ok", "no servers")

	set("database", errors.New("connection refused"))
	expect("/readyz", 503, "unready", "connection refused", "no servers")
	expect("/startupz", 200, "unready", "connection refused", "no servers")
	if code, _ := get(t, admin+"/livez"); code != 200 {
		t.Errorf("/livez answers %d while the database is away", code)
	}

	set("database", nil)
	set("broker", nil)
	expect("/readyz", 200, "ready", "ok", "ok")
}

func TestChangesOfReadinessAreLogged(t *testing.T) {
	t.Parallel()
	var broker atomic.Pointer[error]
	s := run(t, func(s *framework.Service) error {
		s.Add("events", &fake{ready: func() map[string]error {
			if err := broker.Load(); err != nil {
				return map[string]error{"broker": *err, "database": nil}
			}
			return map[string]error{"broker": nil, "database": nil}
		}})
		return nil
	})
	s.ready()
	var err error = away{errors.New("no servers")}
	broker.Store(&err)
	if line := s.logs("service is degraded"); line["failing"] != "broker: no servers" || line["level"] != "WARN" {
		t.Errorf("logged %v", line)
	}
	broker.Store(nil)
	s.logs("service is ready again")
}

func TestPanicInReadyIsAFailingCheck(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	var once sync.Once
	s := run(t, func(s *framework.Service) error {
		s.Add("events", &fake{ready: func() map[string]error {
			defer once.Do(func() { close(asked) })
			panic("nil map")
		}})
		return nil
	})
	admin := s.probes()
	<-asked
	if p := ask(t, admin+"/readyz"); p.Code != 503 || !strings.Contains(p.Checks["events"], "nil map") {
		t.Errorf("/readyz answers %+v", p)
	}
}

func TestDrainTimeoutBoundsPartsThatHang(t *testing.T) {
	t.Parallel()
	var j journal
	hang := make(chan struct{})
	exited := make(chan struct{})
	s := run(t, func(s *framework.Service) error {
		s.Add("database", j.part("database"))
		s.Add("http", bare(func(context.Context) error { defer close(exited); <-hang; return nil }))
		return nil
	}, "DRAIN_TIMEOUT=10ms")
	s.ready()
	s.signal()
	err := s.ended()
	close(hang)
	<-exited
	if err == nil || err.Error() != "part http has not stopped within DRAIN_TIMEOUT (10ms)" {
		t.Errorf("Run = %v, want the part that hangs", err)
	}
	if got, want := j.String(), "start database, stop database"; got != want {
		t.Errorf("the other part: %s, want %s", got, want)
	}
}

// frequented is a part that is asked for something now and then.
type frequented struct {
	bare
	last func() time.Time
}

func (f frequented) LastRequest() time.Time { return f.last() }

// TestDrainDelayWaitsForTheLast: a service that is still asked for something stays, until DRAIN_DELAY_MAX is over.
func TestDrainDelayWaitsForTheLast(t *testing.T) {
	t.Parallel()
	start := func(last func() time.Time, limit string) *service {
		s := run(t, func(s *framework.Service) error {
			s.Add("http", frequented{bare: waits, last: last})
			return nil
		}, "DRAIN_DELAY=200ms", "DRAIN_DELAY_MAX="+limit)
		s.ready()
		s.signal()
		return s
	}
	requested := make(chan bool)
	s := start(func() time.Time {
		if <-requested {
			return time.Now()
		}
		return time.Time{}
	}, "1h")
	for range 5 {
		select {
		case requested <- true:
		case err := <-s.result:
			t.Fatalf("stopped (%v) while requests came", err)
		}
	}
	requested <- false
	if err := s.ended(); err != nil {
		t.Errorf("when requests have ended: %v", err)
	}
	if err := start(time.Now, "300ms").ended(); err != nil {
		t.Errorf("requests that never end: %v", err)
	}
}

func TestFailureWhileStoppingIsReported(t *testing.T) {
	t.Parallel()
	s := run(t, func(s *framework.Service) error {
		s.Add("events", bare(func(ctx context.Context) error { <-ctx.Done(); return errors.New("3 events not flushed") }))
		s.Add("tolerated", bare(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
		return nil
	})
	s.ready()
	s.signal()
	if err := s.ended(); err == nil || err.Error() != "part events: 3 events not flushed" {
		t.Errorf("Run = %v, want what failed", err)
	}
}

func TestSecondSignalReturnsAtOnce(t *testing.T) {
	t.Parallel()
	canceled := make(chan struct{})
	s := run(t, func(s *framework.Service) error {
		s.Add("part", bare(func(ctx context.Context) error { <-ctx.Done(); close(canceled); return nil }))
		return nil
	}, "DRAIN_DELAY=1h")
	s.ready()
	s.signal()
	s.signal()
	if err := s.ended(); err == nil || !strings.Contains(err.Error(), "second signal") {
		t.Errorf("Run = %v, want a second signal", err)
	}
	<-canceled // the parts are told to stop, though nobody waits for them
}

func TestMistakesInBuildPanic(t *testing.T) {
	t.Parallel()
	for want, build := range map[string]func(s *framework.Service){
		`framework: service "test" has two parts named "http"`:                func(s *framework.Service) { s.Add("http", bare(waits)); s.Add("http", bare(waits)) },
		`framework: part "http" of service "test" is nil`:                     func(s *framework.Service) { s.Add("http", nil) },
		`framework: service "test" has a part (framework_test.bare) named ""`: func(s *framework.Service) { s.Add("", bare(waits)) },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
					t.Errorf("panic: %s\nwant: %s", got, want)
				}
			}()
			_ = framework.Run(t.Context(), "test", func(s *framework.Service, _ none) error { build(s); return nil }, framework.Options{})
		})
	}
}

func TestPartsAreAddedByBuildOnly(t *testing.T) {
	t.Parallel()
	refused := make(chan any, 1)
	s := run(t, func(s *framework.Service) error {
		s.Add("part", &fake{start: func(context.Context) error {
			defer func() { refused <- recover() }()
			s.Add("late", bare(waits))
			return nil
		}})
		return nil
	})
	s.ready()
	if got := fmt.Sprint(<-refused); !strings.Contains(got, `part "late" added to service "test" after it was built`) {
		t.Errorf("panic: %s", got)
	}
}

func TestBuildThatFails(t *testing.T) {
	t.Parallel()
	wrong := errors.New("no such provider: paypal")
	s := run(t, func(*framework.Service) error { return wrong })
	if err := s.ended(); !errors.Is(err, wrong) || err.Error() != "build test: no such provider: paypal" {
		t.Errorf("Run = %v", err)
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	var j journal
	var log buffer
	migrate := func(build func(s *framework.Service)) error {
		return framework.Run(t.Context(), "test", func(s *framework.Service, _ none) error { build(s); return nil },
			framework.Options{Args: []string{"migrate"}, Stdout: &log})
	}
	if err := migrate(func(s *framework.Service) {
		s.Add("database", j.part("database"))
		s.Add("http", &server{})
		s.Add("archive", j.part("archive"))
	}); err != nil {
		t.Fatal(err)
	}
	if got, want := j.String(), "migrate database, release database, migrate archive, release archive"; got != want {
		t.Errorf("happened: %s\nwant: %s", got, want)
	}

	err := migrate(func(s *framework.Service) {
		s.Add("database", &fake{migrate: func(context.Context) error { return errors.New("3.sql: syntax error") }})
	})
	if err == nil || err.Error() != "migrate database: 3.sql: syntax error" {
		t.Errorf("migrate = %v", err)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	call := func(args ...string) (string, error) {
		var out buffer
		err := framework.Run(t.Context(), "orders", func(*framework.Service, none) error {
			t.Errorf("%v builds the service", args)
			return nil
		}, framework.Options{Args: args, Stdout: &out})
		return out.String(), err
	}
	for _, help := range []string{"help", "-h", "--help"} {
		if out, err := call(help); err != nil || !strings.Contains(out, "usage: orders [command]") {
			t.Errorf("%s prints %q, %v", help, out, err)
		}
	}
	if out, err := call("version"); err != nil || !strings.HasPrefix(out, "orders ") || len(strings.Fields(out)) != 3 {
		t.Errorf("version prints %q, %v", out, err)
	}
	for _, args := range [][]string{{"start"}, {"run", "fast"}} {
		if _, err := call(args...); err == nil || !strings.Contains(err.Error(), args[len(args)-1]) || !strings.Contains(err.Error(), "usage: orders") {
			t.Errorf("%v = %v, want the usage", args, err)
		}
	}
}

func TestAddressOfTheProbesIsTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := run(t, func(s *framework.Service) error { s.Add("part", bare(waits)); return nil }, "ADMIN_ADDR="+l.Addr().String())
	if err := s.ended(); err == nil || !strings.Contains(err.Error(), "ADMIN_ADDR") || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Run = %v, want the address that is taken", err)
	}
}

func TestDebugPages(t *testing.T) {
	t.Parallel()
	s := run(t, func(s *framework.Service) error {
		s.Add("events", &fake{
			describe: map[string]any{"publishes": []string{"ticket.created"}},
			debug: map[string]http.Handler{"/debug/events/": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, "the part's own: ", r.URL.Path)
			})},
		})
		return nil
	})
	admin := "http://" + s.ready()["admin"]
	for path, want := range map[string]string{
		"/debug/events/list":             "the part's own: /debug/events/list",
		"/debug/describe":                `"ticket.created"`,
		"/debug/pprof/":                  "goroutine",
		"/debug/pprof/goroutine?debug=1": "framework",
		"/debug/pprof/cmdline":           os.Args[0],
	} {
		if code, body := get(t, admin+path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s answers %d, without %q: %.300s", path, code, want, body)
		}
	}
	if code, _ := get(t, admin+"/unknown"); code != 404 {
		t.Errorf("/unknown answers %d", code)
	}
}

// Pages of parts stay below /debug/, and out of each other's way.
func TestMistakesInDebugPagesPanic(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/metrics": "want a path below /debug/", "/debug/pprof/": "/debug/pprof/"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
					t.Errorf("panic: %s\nwant: %s", got, want)
				}
			}()
			_ = framework.Run(t.Context(), "test", func(s *framework.Service, _ none) error {
				s.Add("events", &fake{debug: map[string]http.Handler{path: http.NotFoundHandler()}})
				return nil
			}, framework.Options{Environ: []string{"ADMIN_ADDR=127.0.0.1:0"}})
		})
	}
}
