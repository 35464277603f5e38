package dev

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
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// The test binary is also the broker that the tests run: it is ready at once, and does nothing.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "broker" {
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		if err := os.WriteFile(os.Getenv("READY_FILE"), []byte(`{"name":"broker"}`), 0o644); err != nil {
			panic(err)
		}
		<-terminated
		return
	}
	os.Exit(m.Run())
}

// library is what both services of the sample workspace consist of. It needs the standard library only.
const library = `package lib

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

type m = map[string]any

func Main(name, greeting string) {
	if len(os.Args) > 1 {
		_ = json.NewEncoder(os.Stdout).Encode(m{"name": name, "operations": []m{{"method": "GET", "path": "/api/" + name}},
			"configuration": []m{{"name": "HTTP_ADDR"}, {"name": "NATS_URL"}, {"name": "DATABASE_URL"}, {"name": "MOOD"}}})
		return
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	l, err := net.Listen("tcp", os.Getenv("HTTP_ADDR"))
	if err != nil {
		panic(err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %d", greeting, os.Getenv("MOOD"), os.Getpid())
	}))
	text, _ := json.Marshal(m{"name": name, "pid": os.Getpid(), "addresses": m{"http": l.Addr().String()}})
	os.WriteFile(os.Getenv("READY_FILE")+".new", text, 0o644)
	os.Rename(os.Getenv("READY_FILE")+".new", os.Getenv("READY_FILE"))
	<-terminated
}
`

// sample makes a workspace with the services alpha and beta.
func sample(t *testing.T) *workspace.Workspace {
	t.Helper()
	t.Setenv("GOWORK", "")
	t.Setenv("GOFLAGS", "")
	root := t.TempDir()
	write(t, root, "go.work", "go 1.26\n\nuse (\n\t./lib\n\t./alpha\n\t./beta\n)\n")
	write(t, root, "lib/go.mod", "module example.com/lib\n\ngo 1.26\n")
	write(t, root, "lib/lib.go", library)
	for _, name := range []string{"alpha", "beta"} {
		write(t, root, name+"/go.mod", "module example.com/"+name+"\n\ngo 1.26\n")
		greet(t, root, name, "hello from "+name)
		write(t, root, name+"/cmd/"+name+"/main.go",
			"package main\n\nimport (\n\t\"example.com/lib\"\n\t\"example.com/"+name+"/service\"\n)\n\nfunc main() { lib.Main(\""+name+"\", service.Greeting) }\n")
	}
	w, err := workspace.Find(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func greet(t *testing.T, root, name, greeting string) {
	t.Helper()
	write(t, root, name+"/service/service.go", fmt.Sprintf("package service\n\nconst Greeting = %q\n", greeting))
}

// screen is the terminal: what was written so far, and a way to wait for more.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newScreen() *screen { return &screen{more: make(chan struct{})} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.more)
	s.more = make(chan struct{})
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until text was written after the first from bytes, and returns how much there is then.
func (s *screen) await(t *testing.T, from int, text string) int {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		s.mu.Lock()
		all, more := s.text.String(), s.more
		s.mu.Unlock()
		if strings.Contains(all[from:], text) {
			return len(all)
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("%q was not written, but\n%s", text, all[from:])
		}
	}
}

// run runs a System on the workspace and calls body in it when all services are ready.
func run(t *testing.T, w *workspace.Workspace, out *screen, change func(*Options), body func(ctx context.Context, s *System)) error {
	t.Helper()
	o := Options{
		Workspace: w, State: filepath.Join(w.Root, ".turnstile"), Bin: filepath.Join(w.Root, ".turnstile", "bin"), Listen: "127.0.0.1:0",
		Environ: os.Environ(), DotEnv: filepath.Join(w.Root, ".env"), Broker: []string{os.Args[0], "broker"}, Console: console.New(out),
	}
	if change != nil {
		change(&o)
	}
	s := New(o)
	return s.Run(t.Context(), func(ctx context.Context) error {
		if err := s.Await(ctx); err != nil {
			return err
		}
		body(ctx, s)
		return nil
	})
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDevelopment(t *testing.T) {
	w, out := sample(t), newScreen()
	watcher, err := w.Watch()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { _ = watcher.Run(ctx) })
	defer watching.Wait()
	defer cancel()

	pids := map[string]string{}
	err = run(t, w, out, nil, func(ctx context.Context, s *System) {
		ctx, cancel := context.WithCancel(ctx)
		var developing sync.WaitGroup
		developing.Go(func() {
			if err := s.Watch(ctx, watcher); err != nil {
				t.Errorf("Watch = %v", err)
			}
		})
		defer developing.Wait()
		defer cancel()

		say := func(name string) (greeting, pid string) {
			text := get(t, s.URL()+"/api/"+name)
			i := strings.LastIndex(text, " ")
			return strings.TrimSpace(text[:i]), text[i+1:]
		}
		expect := func(name, greeting string, same bool) {
			t.Helper()
			got, pid := say(name)
			if got != greeting {
				t.Errorf("%s says %q, want %q", name, got, greeting)
			}
			if before, ok := pids[name]; ok && same != (pid == before) {
				t.Errorf("%s: the same process is %v, want %v", name, pid == before, same)
			}
			pids[name] = pid
		}
		expect("alpha", "hello from alpha", true)
		expect("beta", "hello from beta", true)

		at := out.await(t, 0, "starting alpha, beta")
		greet(t, w.Root, "alpha", "good day")
		at = out.await(t, at, "ready again")
		expect("alpha", "good day", false)
		expect("beta", "hello from beta", true)

		write(t, w.Root, "lib/lib.go", strings.ReplaceAll(library, "terminated :=", "terminated ="))
		at = out.await(t, at, "what ran before goes on running")
		if all := out.String(); !strings.Contains(all, "alpha, beta do not compile") || !strings.Contains(all, "lib/lib.go:") {
			t.Errorf("the compiler's words are not shown:\n%s", all)
		}
		expect("alpha", "good day", true)
		expect("beta", "hello from beta", true)

		write(t, w.Root, "lib/lib.go", library)
		out.await(t, at, "everything compiles again")
		at = out.await(t, at, "so nothing is restarted")
		expect("alpha", "good day", true)

		write(t, w.Root, ".env", "BETA_MOOD=happily\n")
		at = out.await(t, at, "ready again")
		expect("alpha", "good day", true)
		expect("beta", "hello from beta happily", false)

		if err := s.Kill("alpha"); err != nil {
			t.Error(err)
		}
		out.await(t, at, "alpha     killed; starts again in 1s")
		expect("alpha", "good day", false) // the gateway holds the request until it is back
		if err := s.Kill("gamma"); err == nil || !strings.Contains(err.Error(), "alpha, beta, broker") {
			t.Errorf("Kill of what there is not = %v", err)
		}
	})
	if err != nil {
		t.Errorf("Run = %v", err)
	}
	for name, pid := range pids {
		if _, err := os.Stat("/proc/" + pid); err == nil {
			t.Errorf("%s (%s) outlived Run", name, pid)
		}
	}
}

func TestOneAtATimeAndReset(t *testing.T) {
	w, out := sample(t), newScreen()
	kept := filepath.Join(w.Root, ".turnstile", "data", "alpha.db")
	err := run(t, w, out, nil, func(_ context.Context, s *System) {
		if err := os.WriteFile(kept, []byte("kept"), 0o644); err != nil {
			t.Error(err)
		}
		err := run(t, w, newScreen(), nil, func(context.Context, *System) { t.Error("a second one runs") })
		locked, ok := errors.AsType[*LockedError](err)
		if !ok || locked.PID != os.Getpid() || locked.URL != s.URL() {
			t.Errorf("a second one = %v, want who is the first", err)
		}
		// That it is we ourselves who have the port is said, too.
		err = run(t, w, newScreen(), func(o *Options) { o.Listen = strings.TrimPrefix(s.URL(), "http://") }, nil)
		if _, ok := errors.AsType[*LockedError](err); !ok {
			t.Errorf("a second one on the same port = %v, want who is the first", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	err = run(t, w, out, nil, func(context.Context, *System) {
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("state does not survive: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	err = run(t, w, out, func(o *Options) { o.Reset = true }, func(context.Context, *System) {
		if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("state survives a reset: %v", err)
		}
		out.await(t, 0, filepath.Join(".turnstile", "data")+": alpha.db")
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestBusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = run(t, sample(t), newScreen(), func(o *Options) { o.Listen = l.Addr().String() }, nil)
	if err == nil || !strings.Contains(err.Error(), "taken by another program") || !strings.Contains(err.Error(), "--listen 127.0.0.1:0") {
		t.Errorf("Run = %v, want what to do", err)
	}
}

func TestMissingConfiguration(t *testing.T) {
	w := sample(t)
	write(t, w.Root, "lib/lib.go", strings.ReplaceAll(library, `{"name": "MOOD"}`, `{"name": "MOOD", "required": true, "doc": "how it feels", "example": "fine"}`))
	err := run(t, w, newScreen(), nil, nil)
	for _, want := range []string{"alpha needs MOOD: how it feels (such as fine)", "beta needs MOOD", ".env"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run = %v, want %q", err, want)
		}
	}
}

func TestTwoBrokers(t *testing.T) {
	w, out := sample(t), newScreen()
	err := run(t, w, out, func(o *Options) { o.Environ = append(o.Environ, "BROKER=jetstream+stan") }, func(ctx context.Context, s *System) {
		if got := s.Brokers(); !slices.Equal(got, []string{"jetstream", "stan"}) {
			t.Errorf("the brokers are %v", got)
		}
		table := s.Overview()
		for _, b := range s.brokers {
			if !strings.Contains(table, b.name) || !strings.Contains(table, b.url) {
				t.Errorf("the table lacks %s at %s:\n%s", b.name, b.url, table)
			}
		}
		if a, b := s.brokers[0].url, s.brokers[1].url; s.around.jetstream != a || s.around.nats != b || a == b {
			t.Errorf("services are told %s and %s, and the brokers are at %s and %s", s.around.jetstream, s.around.nats, a, b)
		}
		if err := s.Kill("jetstream"); err != nil {
			t.Error(err)
		}
		if err := s.AwaitRestart(ctx, "jetstream"); err != nil {
			t.Error(err)
		}
		if err := s.Kill(Broker); err == nil || !strings.Contains(err.Error(), "alpha, beta, jetstream, stan") {
			t.Errorf("Kill of what there is not = %v", err)
		}
	})
	if err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestUsersBroker(t *testing.T) {
	w, out := sample(t), newScreen()
	err := run(t, w, out, func(o *Options) {
		o.Environ = append(o.Environ, "BROKER=jetstream", "JETSTREAM_URL=nats://broker.example:4222")
	}, func(_ context.Context, s *System) {
		out.await(t, 0, "using the broker at nats://broker.example:4222 (JETSTREAM_URL)")
		if err := s.Kill(Broker); err == nil || !strings.Contains(err.Error(), "does not run") {
			t.Errorf("Kill of the user's broker = %v", err)
		}
	})
	if err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestOverview(t *testing.T) {
	w := sample(t)
	err := run(t, w, newScreen(), nil, func(_ context.Context, s *System) {
		table := s.Overview()
		for _, want := range []string{s.URL() + "/api/alpha/docs", s.URL() + "/api/beta", s.brokers[0].url, fmt.Sprint(os.Getpid())} {
			if !strings.Contains(table, want) {
				t.Errorf("the table lacks %s:\n%s", want, table)
			}
		}
		var index struct {
			Services []struct{ Name, Status string }
		}
		if err := json.Unmarshal([]byte(get(t, s.URL()+"/")), &index); err != nil || len(index.Services) != 2 || index.Services[0].Status != "ready" {
			t.Errorf("index = %+v, %v", index, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
