package jetstreamserver

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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

// use publishes a message and returns how many the stream has.
func use(t *testing.T, url string) uint64 {
	t.Helper()
	nc, err := nats.Connect(url)
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

func TestServer(t *testing.T) {
	brokertest.EmbeddedServer(t, func(dir string, port int) (brokertest.Server, error) {
		return Start(Options{Dir: dir, Port: port})
	}, use)
}

// A directory may be synced in one way by one server, and in the other by the next.
func TestSyncAlways(t *testing.T) {
	dir := t.TempDir()
	for n := range uint64(3) {
		s := run(t, Options{Dir: dir, SyncAlways: n == 1})
		if got := use(t, s.URL()); got != n+1 {
			t.Errorf("start %d: %d messages, want %d", n+1, got, n+1)
		}
		s.Shutdown()
	}
}

func TestToken(t *testing.T) {
	s := run(t, Options{Token: "mine/only"})
	use(t, s.URL())
	for _, wrong := range []string{"nats://127.0.0.1:", "nats://another@127.0.0.1:"} {
		if nc, err := nats.Connect(wrong + strconv.Itoa(brokertest.Port(t, s.URL()))); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("connect to %s: %v, want to be refused", wrong, err)
			nc.Close()
		}
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
