package stan_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/stan"
	"github.com/turnstile-go/turnstile/framework/event/stan/stanserver"
)

// embedded is a server in this process, that stops in order.
type embedded struct {
	*stanserver.Server
	options stanserver.Options
}

func startEmbedded(t *testing.T, o stanserver.Options) *embedded {
	t.Helper()
	e := &embedded{options: o}
	e.start(t)
	e.options.Port = brokertest.Port(t, e.URL())
	t.Cleanup(func() { e.Shutdown() })
	return e
}

func (e *embedded) start(t *testing.T) {
	t.Helper()
	server, err := stanserver.Start(e.options)
	if err != nil {
		t.Fatal(err)
	}
	e.Server = server
}

func TestConformance(t *testing.T) {
	eventtest.TestBroker(t, func(t *testing.T) eventtest.Harness {
		server := startEmbedded(t, stanserver.Options{Dir: t.TempDir()})
		return eventtest.Harness{
			Broker:  func(id string) event.Broker { return stan.New(stan.Config{URL: server.URL(), ClientID: id}, nil) },
			Kill:    server.Shutdown,
			Restart: func() { server.start(t) },
		}
	})
}

// The same with a server that is killed, instead of shut down.
func TestConformanceKilled(t *testing.T) {
	eventtest.TestBroker(t, func(t *testing.T) eventtest.Harness {
		server := brokertest.StartProcess(t)
		return eventtest.Harness{
			Broker:  func(id string) event.Broker { return stan.New(stan.Config{URL: server.URL, ClientID: id}, nil) },
			Kill:    server.Kill,
			Restart: server.Start,
		}
	})
}

// A client id is one live session's.
func TestClientID(t *testing.T) {
	server := startEmbedded(t, stanserver.Options{})
	cfg := stan.Config{URL: server.URL(), ClientID: "pod.a/1"} // not all of it allowed
	first := connect(t, cfg)

	_, err := stan.New(cfg, nil).Connect(t.Context())
	if err == nil {
		t.Fatal("two sessions with one client id")
	}
	if want := `the client id "pod-a-1" is in use`; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	connect(t, cfg).Close()

	// Without an id every broker has its own.
	connect(t, stan.Config{URL: server.URL()})
	connect(t, stan.Config{URL: server.URL()})
}

// Errors of Connect say what is wrong and what to do.
func TestConnectErrors(t *testing.T) {
	server := startEmbedded(t, stanserver.Options{ClusterID: "other"})
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()

	for _, tt := range []struct{ name, url, want string }{
		{"nobody listens", "nats://user:hush@" + nobody.Addr().String(), "is it running, and is NATS_URL right?"},
		{"another cluster", server.URL(), "is one running with -cluster_id turnstile"},
		{"no address", "nats://user:hush@host:port", "NATS_URL is not an address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := stan.New(stan.Config{URL: tt.url}, nil).Connect(t.Context())
			if err == nil {
				t.Fatal("connected")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("error %q gives the password away", err)
			}
		})
	}
}

// A server that accepts a connection and says nothing holds Connect up no
// longer than its context.
func TestConnectIsCancelled(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := silent.Accept()
		cancel()
		if err == nil {
			defer conn.Close()
			conn.Read(make([]byte, 1))
		}
	}()
	start := time.Now()
	_, err = stan.New(stan.Config{URL: "nats://" + silent.Addr().String()}, nil).Connect(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("connect: %v, want context.Canceled", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("connect took %v to notice its context", took)
	}
}

// A server that hangs is found out by pings, also by a session that is stuck
// in writing to it, and costs no publish its answer.
func TestHungServer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		count int
		size  int
	}{
		{"idle", 0, 0},
		{"waiting for acknowledgements", 100, 100},
		{"stuck in a write", 100, 1_000_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := brokertest.StartProcess(t)
			s := connect(t, stan.Config{URL: server.URL, PublishTimeout: time.Minute})
			server.Hang()
			hung := time.Now()
			var answered, acked atomic.Int32
			var publishers sync.WaitGroup
			for range tt.count {
				publishers.Go(func() {
					s.Publish(t.Context(), "tickets", make([]byte, tt.size), func(err error) {
						answered.Add(1)
						if err == nil {
							acked.Add(1)
						}
					})
				})
			}
			select {
			case <-s.Lost():
			case <-time.After(20 * time.Second):
				t.Fatal("the loss of the session is not noticed")
			}
			took := time.Since(hung)
			t.Logf("found after %v", took)
			if took > 5*time.Second {
				t.Errorf("it took %v to find that the server hangs", took)
			}
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			publishers.Wait()
			if answered.Load() != int32(tt.count) || acked.Load() > 0 {
				t.Errorf("of %d publishes %d were answered, %d of them with success", tt.count, answered.Load(), acked.Load())
			}
		})
	}
}

// Close does not wait for a server that hangs.
func TestCloseHungServer(t *testing.T) {
	t.Parallel()
	server := brokertest.StartProcess(t)
	s := connect(t, stan.Config{URL: server.URL})
	server.Hang()
	start := time.Now()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("close took %v", took)
	}
}

func TestServerKilledUnderLoad(t *testing.T) {
	server := brokertest.StartProcess(t)
	brokertest.KilledUnderLoad(t, server, func(id string) event.Broker {
		return stan.New(stan.Config{URL: server.URL, ClientID: id}, nil)
	}, nil)
}

func connect(t *testing.T, cfg stan.Config) event.Session {
	t.Helper()
	s, err := stan.New(cfg, nil).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
