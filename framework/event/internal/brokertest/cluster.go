package brokertest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/event"
)

// ClusterUnderLoad is a test: three servers in processes of their own go on when
// one of them is stopped or killed, whichever it is, loses what it had on disk, or
// finds it torn. When all are killed they are back together. What they
// acknowledged is not lost, and what is published is done once. They turn away who
// has no token.
//
// newBroker returns a broker for a client of that name, at those addresses. tear
// takes away the end of what a server has written last.
func ClusterUnderLoad(t *testing.T, newBroker func(id, urls string) event.Broker, tear func(t *testing.T, dir string)) {
	c := startCluster(t)
	if s, err := newBroker("stranger", strings.ReplaceAll(c.urls, c.token, "guess")).Connect(t.Context()); err == nil {
		s.Close()
		t.Error("somebody without the token is let in")
	}
	load := startLoad(t, func(id string) event.Broker { return newBroker(id, c.urls) })
	load.awaitLive(time.Time{})

	// The limit is for a slow machine: what is usual is in docs/brokers.md.
	live := func(what string, since time.Time) {
		t.Helper()
		took := load.awaitLive(since)
		t.Logf("%s: everything is live again after %v, with %d events published", what, took.Round(time.Millisecond), load.published.Load())
		if took > Slowdown*30*time.Second {
			t.Errorf("%s: it took %v until everything was live again", what, took)
		}
	}
	without := func(p *Process) {
		t.Helper()
		p.Kill()
		live(p.Name+" is killed", time.Now())
		p.Start()
		p.awaitReady()
	}
	for _, p := range c.servers { // one of them leads
		began := time.Now()
		p.stop()
		live(p.Name+" is told to stop", began)
		p.Start()
		p.awaitReady()
	}
	for _, p := range c.servers {
		without(p)
	}

	for _, p := range c.servers {
		p.Kill()
	}
	c.start()
	live("all are killed and started again", time.Now())

	lost, torn, third := c.servers[0], c.servers[1], c.servers[2]
	lost.Kill()
	if err := os.RemoveAll(lost.Dir); err != nil {
		t.Fatal(err)
	}
	lost.Start()
	lost.awaitReady()
	without(third) // now nothing is acknowledged without the one that had lost all
	torn.Kill()
	tear(t, torn.Dir)
	torn.Start()
	torn.awaitReady()
	without(third)
	without(lost)

	load.finish()
	for stream, bodies := range load.seen.allStored() {
		awaitStored(t, newBroker("late-"+stream, c.urls), stream, bodies)
	}
}

// awaitStored returns when a new group of the stream has received all of bodies.
func awaitStored(t *testing.T, b event.Broker, stream string, bodies map[string]bool) {
	t.Helper()
	stored, in := len(bodies), make(chan string, len(bodies))
	late := time.After(Slowdown * time.Minute)
	for len(bodies) > 0 {
		s := Connect(t, b)
		reading, stop := context.WithCancel(t.Context())
		if _, err := s.Subscribe(t.Context(), event.Subscription{Stream: stream, Group: "late"}, func(d event.Delivery) {
			select {
			case in <- string(d.Body):
			case <-reading.Done():
				return
			}
			if err := d.Ack(); err != nil {
				t.Logf("acknowledge, on %s: %v", stream, err) // it comes again
			}
		}); err != nil {
			t.Fatal(err)
		}
		for lost := false; !lost && len(bodies) > 0; {
			select {
			case body := <-in:
				delete(bodies, body)
			case <-s.Lost(): // which any session may be
				t.Logf("the session that reads stream %s is lost with %d messages to come", stream, len(bodies))
				lost = true
			case <-late:
				t.Fatalf("of %d messages that were acknowledged on stream %s %d are lost", stored, stream, len(bodies))
			}
		}
		stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// cluster is three servers.
type cluster struct {
	servers []*Process
	token   string
	urls    string
}

func startCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{token: "hush"}
	peers := map[string]string{}
	var urls []string
	for _, name := range []string{"a", "b", "c"} {
		peers[name] = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
		p := newProcess(t, Node{Dir: t.TempDir(), Port: FreePort(t), Token: c.token, Name: name, Peers: peers})
		c.servers = append(c.servers, p)
		urls = append(urls, fmt.Sprintf("nats://%s@127.0.0.1:%d", c.token, p.Port))
	}
	c.urls = strings.Join(urls, ",")
	c.start()
	return c
}

// start starts all, and returns when they are ready.
func (c *cluster) start() {
	for _, p := range c.servers {
		p.launch() // none may wait for another's start
	}
	for _, p := range c.servers {
		p.awaitStart()
		p.awaitReady()
	}
}

// Truncate takes the last bytes of the files in dir that match pattern, of which
// there must be some.
func Truncate(t *testing.T, dir, pattern string) {
	t.Helper()
	files, err := fs.Glob(os.DirFS(dir), pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("there is no %s in %s (%v)", pattern, dir, err)
	}
	for _, file := range files {
		path := filepath.Join(dir, filepath.FromSlash(file))
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, max(0, info.Size()-5)); err != nil {
			t.Fatal(err)
		}
	}
}
