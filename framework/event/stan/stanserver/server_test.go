package stanserver

import (
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/stan.go"
)

func start(t *testing.T, o Options) *Server {
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

// use publishes a message and returns how many the channel has.
func use(t *testing.T, s *Server) uint64 {
	t.Helper()
	conn, err := stan.Connect("turnstile", "test", stan.NatsURL(s.URL()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Publish("tickets", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	last := make(chan uint64, 1)
	if _, err := conn.Subscribe("tickets", func(m *stan.Msg) { last <- m.Sequence }, stan.StartWithLastReceived()); err != nil {
		t.Fatal(err)
	}
	return <-last
}

func indexes(t *testing.T, dir string) int {
	t.Helper()
	found, err := fs.Glob(os.DirFS(dir), "*/msgs.*.idx")
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

func TestKeepsMessages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "[odd] *name")
	for n := range uint64(3) {
		s := start(t, Options{Dir: dir})
		if got := use(t, s); got != n+1 {
			t.Errorf("start %d: %d messages, want %d", n+1, got, n+1)
		}
		s.Shutdown()
		s.Shutdown()
	}
}

func TestKeepsNothingInMemory(t *testing.T) {
	for range 2 {
		s := start(t, Options{})
		if got := use(t, s); got != 1 {
			t.Errorf("%d messages, want 1", got)
		}
		s.Shutdown()
	}
}

// A directory that was left in order keeps its indexes; any other loses them
// before the server reads it, and no messages.
func TestRepairsAfterUncleanStop(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Options{Dir: dir})
	use(t, s)
	s.Shutdown()
	if indexes(t, dir) != 1 {
		t.Fatalf("%d indexes in a directory with one channel", indexes(t, dir))
	}

	leave, err := enter(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if indexes(t, dir) != 1 {
		t.Error("the index of a directory left in order was removed")
	}
	leave()

	// As after a kill: entered and never left.
	if err := os.Remove(filepath.Join(dir, cleanFile)); err != nil {
		t.Fatal(err)
	}
	leave, err = enter(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if indexes(t, dir) != 0 {
		t.Error("the index of a directory left in disorder was kept")
	}
	leave()

	s = start(t, Options{Dir: dir})
	if got := use(t, s); got != 2 {
		t.Errorf("%d messages, want 2", got)
	}
}

func TestBusyPort(t *testing.T) {
	first := start(t, Options{})
	_, err := Start(Options{Port: port(t, first)})
	if err == nil {
		t.Fatal("two servers on one port")
	}
	if want := "choose another port"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
	again := port(t, first)
	first.Shutdown()
	start(t, Options{Port: again})
}

func TestBusyDir(t *testing.T) {
	dir := t.TempDir()
	first := start(t, Options{Dir: dir})
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
