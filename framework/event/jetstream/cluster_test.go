package jetstream_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/jetstream"
)

// In a cluster, a stream with three copies outlives the server that leads it:
// sessions move on to another, and nothing that was acknowledged is lost, even
// when the next leader stops, too, once the first is back.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	cfg := jetstream.Config{URL: strings.Join(c.urls(), ","), Replicas: 3}
	stored, delivered := map[string]bool{}, map[string]bool{}
	down := -1
	for round := range 3 {
		if down >= 0 {
			c.start(down)
			c.await("every copy of the stream", func() bool {
				return !slices.ContainsFunc(c.servers, func(s *natsd.Server) bool { return !s.JetStreamIsStreamCurrent("$G", "turnstile-tickets") })
			})
		}
		if round > 0 {
			c.await("a leader of the stream", func() bool {
				down = slices.IndexFunc(c.servers, func(s *natsd.Server) bool { return s.JetStreamIsStreamLeader("$G", "turnstile-tickets") })
				return down >= 0
			})
			c.stop(down)
		}
		began := time.Now()
		for n := 1; ; n++ {
			err := exchange(t, cfg, fmt.Sprintf("%d-%d", round, n), stored, delivered)
			if err == nil {
				t.Logf("round %d: works after %v, with session %d", round, time.Since(began).Round(time.Millisecond), n)
				break
			}
			t.Logf("round %d: session %d after %v: %v", round, n, time.Since(began).Round(time.Millisecond), err)
			if time.Since(began) > time.Minute {
				t.Fatalf("round %d: no session works: %v", round, err)
			}
		}
	}
	for body := range stored {
		if !delivered[body] {
			t.Errorf("%s was acknowledged and is lost", body)
		}
	}
}

// exchange stores messages over a new session and receives until all stored ones
// have come. It notes how far it gets.
func exchange(t *testing.T, cfg jetstream.Config, name string, stored, delivered map[string]bool) error {
	s, err := jetstream.New(cfg, nil).Connect(t.Context())
	if err != nil {
		return err
	}
	defer s.Close()
	in := make(chan event.Delivery, 1000)
	if _, err := s.Subscribe(t.Context(), event.Subscription{Stream: "tickets", Group: "orders"}, func(d event.Delivery) { in <- d }); err != nil {
		return err
	}
	for i := range 50 {
		body, answer := fmt.Sprintf("%s-%d", name, i), make(chan error, 1)
		s.Publish(t.Context(), "tickets", []byte(body), func(err error) { answer <- err })
		if err := <-answer; err != nil {
			return err
		}
		stored[body] = true
	}
	late := time.After(20 * time.Second)
	for len(delivered) < len(stored) {
		select {
		case d := <-in:
			if stored[string(d.Body)] { // or it was stored and not acknowledged
				delivered[string(d.Body)] = true
			}
			if err := d.Ack(); err != nil {
				return err
			}
		case <-s.Lost():
			return errors.New("the session is lost")
		case <-late:
			return fmt.Errorf("%d of %d messages came", len(delivered), len(stored))
		}
	}
	return nil
}

// cluster is of servers in this process.
type cluster struct {
	t       *testing.T
	options []*natsd.Options
	servers []*natsd.Server
}

func startCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, servers: make([]*natsd.Server, n)}
	var routes []*url.URL
	for i := range n {
		o := &natsd.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: brokertest.FreePort(t), NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(),
			Cluster: natsd.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: brokertest.FreePort(t)},
		}
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", o.Cluster.Port)})
		c.options = append(c.options, o)
	}
	for i, o := range c.options {
		o.Routes = routes
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.stop(i)
		}
	})
	c.await("a leader of the cluster", func() bool {
		return slices.ContainsFunc(c.servers, (*natsd.Server).JetStreamIsLeader)
	})
	return c
}

func (c *cluster) start(i int) {
	c.t.Helper()
	s, err := natsd.NewServer(c.options[i].Clone())
	if err != nil {
		c.t.Fatal(err)
	}
	c.servers[i] = s
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		c.t.Fatalf("server %d does not start", i)
	}
}

func (c *cluster) stop(i int) {
	c.servers[i].Shutdown()
	c.servers[i].WaitForShutdown()
}

func (c *cluster) urls() (urls []string) {
	for _, o := range c.options {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", o.Port))
	}
	return urls
}

func (c *cluster) await(what string, is func() bool) {
	c.t.Helper()
	for late := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(late) {
			c.t.Fatalf("there is no %s", what)
		}
	}
}
