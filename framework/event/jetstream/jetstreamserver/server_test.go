package jetstreamserver

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func run(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

func port(t *testing.T, s *Server) int {
	t.Helper()
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// use publishes a message and returns how many the stream has.
func use(t *testing.T, s *Server) uint64 {
	t.Helper()
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "tickets"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "tickets", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Msgs
}

func TestKeepsMessages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "[odd] *name")
	for n := range uint64(3) {
		s := run(t, Options{Dir: dir, SyncAlways: n == 1})
		if got := use(t, s); got != n+1 {
			t.Errorf("start %d: %d messages, want %d", n+1, got, n+1)
		}
		s.Shutdown()
		s.Shutdown()
	}
}

func TestKeepsNothingWithoutDirectory(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for range 2 {
		s := run(t, Options{})
		if got := use(t, s); got != 1 {
			t.Errorf("%d messages, want 1", got)
		}
		s.Shutdown()
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v behind, %v", left, err)
	}
}

func TestToken(t *testing.T) {
	s := run(t, Options{Token: "mine/only"})
	use(t, s)
	for _, wrong := range []string{"nats://127.0.0.1:", "nats://another@127.0.0.1:"} {
		if nc, err := nats.Connect(wrong + strconv.Itoa(port(t, s))); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("connect to %s: %v, want to be refused", wrong, err)
			nc.Close()
		}
	}
}

func TestBusyPort(t *testing.T) {
	first := run(t, Options{})
	_, err := Start(Options{Port: port(t, first)})
	if err == nil {
		t.Fatal("two servers on one port")
	}
	if want := "choose another port"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
	again := port(t, first)
	first.Shutdown()
	run(t, Options{Port: again})
}

func TestBusyDir(t *testing.T) {
	dir := t.TempDir()
	first := run(t, Options{Dir: dir})
	_, err := Start(Options{Dir: dir})
	if err == nil {
		t.Fatal("two servers in one directory")
	}
	if want := "another server is using the directory"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
	if got := use(t, first); got != 1 {
		t.Errorf("%d messages in the first server, want 1", got)
	}
}

// What keeps JetStream from starting is said at once.
func TestUnusableDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(Options{Dir: dir})
	if err == nil {
		t.Fatal("a server whose store is a file")
	}
	if want := "not a directory"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
}
