package natsserver

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// lines passes on what is logged.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	select {
	case l <- string(line):
	default:
	}
	return len(line), nil
}

func (l lines) await(t *testing.T, what string) {
	t.Helper()
	for late := time.After(20 * time.Second); ; {
		select {
		case line := <-l:
			if strings.Contains(line, what) {
				return
			}
		case <-late:
			t.Fatalf("no line says %q", what)
		}
	}
}

func peers(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range []string{"a", "b"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all[name] = l.Addr().String()
	}
	return all
}

func run(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(o, func(*server.Options) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// Servers find one another, whatever their token is made of, and one that is
// stopped sends its clients away.
func TestCluster(t *testing.T) {
	all := peers(t)
	const token = "a/b@c:d %"
	a := run(t, Options{Name: "a", Peers: all, Token: token})
	b := run(t, Options{Name: "b", Peers: all, Token: token})
	for late := time.Now().Add(20 * time.Second); a.NumRoutes() == 0 || b.NumRoutes() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("they do not find one another")
		}
	}
	closed := make(chan struct{})
	nc, err := nats.Connect(a.URL(), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	a.Shutdown()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Error("its client has not been sent away")
	}
}

// A server with another token does not get into the cluster.
func TestClusterToken(t *testing.T) {
	all := peers(t)
	log := make(lines, 100)
	a := run(t, Options{Name: "a", Peers: all, Token: "mine", Log: slog.New(slog.NewTextHandler(log, nil))})
	run(t, Options{Name: "b", Peers: all, Token: "another"})
	log.await(t, "uthentication")
	if n := a.NumRoutes(); n != 0 {
		t.Errorf("%d routes between servers with different tokens", n)
	}
}

func TestStrangerInCluster(t *testing.T) {
	_, err := Start(Options{Name: "c", Peers: peers(t)}, func(*server.Options) {})
	if want := `the server's name "c" is not among those of its cluster: a, b`; fmt.Sprint(err) != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
