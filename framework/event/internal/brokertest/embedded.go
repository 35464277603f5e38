package brokertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Embedded is a server in this process, that stops in order.
type Embedded struct {
	URL string // stays the same

	t      testing.TB
	run    func(port int) (Server, error)
	server Server
}

// StartEmbedded starts one that ends with t. run runs it on a port.
func StartEmbedded(t testing.TB, run func(port int) (Server, error)) *Embedded {
	t.Helper()
	e := &Embedded{t: t, run: run, URL: fmt.Sprintf("nats://127.0.0.1:%d", FreePort(t))}
	e.Start()
	t.Cleanup(e.Shutdown)
	return e
}

// Start returns when clients can connect.
func (e *Embedded) Start() {
	e.t.Helper()
	server, err := e.run(Port(e.t, e.URL))
	if err != nil {
		e.t.Fatal(err)
	}
	e.server, e.URL = server, server.URL()
}

// Shutdown ends the server. It may be called again.
func (e *Embedded) Shutdown() { e.server.Shutdown() }

// EmbeddedServer is a test: servers that start runs inside the process keep what
// they are given to keep, and nothing else, and have their port and directory to
// themselves. use publishes a message and returns how many the server has.
func EmbeddedServer(t *testing.T, start func(dir string, port int) (Server, error), use func(t *testing.T, url string) uint64) {
	run := func(t *testing.T, dir string, port int) Server {
		t.Helper()
		s, err := start(dir, port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Shutdown)
		return s
	}
	refused := func(t *testing.T, dir string, port int, want string) {
		t.Helper()
		if _, err := start(dir, port); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("start: %v, want an error that says %q", err, want)
		}
	}

	t.Run("keeps messages", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "new", "[odd] *name")
		for n := range uint64(3) {
			s := run(t, dir, 0)
			if got := use(t, s.URL()); got != n+1 {
				t.Errorf("start %d: %d messages, want %d", n+1, got, n+1)
			}
			s.Shutdown()
			s.Shutdown()
		}
	})
	t.Run("keeps nothing without a directory", func(t *testing.T) {
		t.Setenv("TMPDIR", t.TempDir())
		for range 2 {
			s := run(t, "", 0)
			if got := use(t, s.URL()); got != 1 {
				t.Errorf("%d messages, want 1", got)
			}
			s.Shutdown()
		}
		if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
			t.Errorf("it leaves %v behind, %v", left, err)
		}
	})
	t.Run("busy port", func(t *testing.T) {
		first := run(t, "", 0)
		port := Port(t, first.URL())
		refused(t, "", port, "choose another port")
		first.Shutdown()
		run(t, "", port)
	})
	t.Run("busy directory", func(t *testing.T) {
		dir := t.TempDir()
		first := run(t, dir, 0)
		refused(t, dir, 0, "another server is using the directory")
		if got := use(t, first.URL()); got != 1 {
			t.Errorf("%d messages in the first server, want 1", got)
		}
	})
}
