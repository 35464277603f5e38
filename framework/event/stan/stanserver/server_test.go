package stanserver

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/stan.go"

	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
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

// use publishes a message and returns how many the channel has.
func use(t *testing.T, url string) uint64 {
	t.Helper()
	conn, err := stan.Connect("turnstile", "test", stan.NatsURL(url))
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

func TestServer(t *testing.T) {
	brokertest.EmbeddedServer(t, func(dir string, port int) (brokertest.Server, error) {
		return Start(Options{Dir: dir, Port: port})
	}, use)
}

// A directory that was left in order keeps its indexes; any other loses them
// before the server reads it, and no messages.
func TestRepairsAfterUncleanStop(t *testing.T) {
	dir := t.TempDir()
	s := run(t, Options{Dir: dir})
	use(t, s.URL())
	s.Shutdown()
	if indexes(t, dir) != 1 {
		t.Fatalf("%d indexes in a directory with one channel", indexes(t, dir))
	}

	leave, err := enter(dir, false, slog.New(slog.DiscardHandler))
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
	leave, err = enter(dir, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if indexes(t, dir) != 0 {
		t.Error("the index of a directory left in disorder was kept")
	}
	leave()

	s = run(t, Options{Dir: dir})
	if got := use(t, s.URL()); got != 2 {
		t.Errorf("%d messages, want 2", got)
	}
}

// Neither a server of its own nor one of a cluster goes on from what the other has left.
func TestOtherKindOfDir(t *testing.T) {
	alone, cluster := t.TempDir(), t.TempDir()
	peers := map[string]string{"a": "127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t)), "b": "127.0.0.1:1"}
	run(t, Options{Dir: alone}).Shutdown()
	run(t, Options{Dir: cluster, Name: "a", Peers: peers}).Shutdown()
	for _, o := range []Options{{Dir: alone, Name: "a", Peers: peers}, {Dir: cluster}} {
		s, err := Start(o)
		if err == nil {
			s.Shutdown()
			t.Fatal("it starts with what it cannot use")
		}
		if want := "an empty directory"; !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

// One of a cluster that finds no other is not ready, and says why.
func TestReady(t *testing.T) {
	s := run(t, Options{})
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("a server of its own: %v", err)
	}
	peers := map[string]string{"a": "127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t)), "b": "127.0.0.1:1", "c": "127.0.0.1:2"}
	s = run(t, Options{Dir: t.TempDir(), Name: "a", Peers: peers})
	if err := s.Ready(t.Context()); err == nil {
		t.Error("one of three is ready without the others")
	}
}
