package stan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/stan"
	"github.com/turnstile-go/turnstile/framework/event/stan/stanserver"
)

func startEmbedded(t *testing.T, o stanserver.Options) *brokertest.Embedded {
	t.Helper()
	return brokertest.StartEmbedded(t, func(port int) (brokertest.Server, error) {
		o.Port = port
		return stanserver.Start(o)
	})
}

func TestConformance(t *testing.T) {
	eventtest.TestBroker(t, func(t *testing.T) eventtest.Harness {
		server := startEmbedded(t, stanserver.Options{Dir: t.TempDir()})
		return eventtest.Harness{
			Broker:  func(id string) event.Broker { return stan.New(stan.Config{URL: server.URL, ClientID: id}, nil) },
			Kill:    server.Shutdown,
			Restart: server.Start,
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
	cfg := stan.Config{URL: server.URL, ClientID: "pod.a/1"} // not all of it allowed
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
	connect(t, stan.Config{URL: server.URL})
	connect(t, stan.Config{URL: server.URL})
}

// Errors of Connect say what is wrong and what to do.
func TestConnectErrors(t *testing.T) {
	server := startEmbedded(t, stanserver.Options{ClusterID: "other"})
	for _, tt := range []struct{ name, url, want string }{
		{"nobody listens", "nats://user:hush@" + brokertest.Nobody(t), "is it running, and is NATS_URL right?"},
		{"another cluster", server.URL, "is one running with -cluster_id turnstile"},
		{"no address", "nats://user:hush@host:port", "NATS_URL is not an address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			brokertest.ConnectFails(t, stan.New(stan.Config{URL: tt.url}, nil), tt.want)
		})
	}
}

// patient returns a broker that finds out by pings that a server is dead, and not
// by publishes.
func patient(url string) event.Broker {
	return stan.New(stan.Config{URL: url, PublishTimeout: time.Minute}, nil)
}

func TestConnectIsCancelled(t *testing.T) { brokertest.ConnectIsCancelled(t, patient) }

func TestHungServer(t *testing.T) {
	t.Parallel()
	brokertest.HungServer(t, patient)
}

func TestCloseHungServer(t *testing.T) {
	t.Parallel()
	brokertest.CloseHungServer(t, patient)
}

func TestServerKilledUnderLoad(t *testing.T) {
	server := brokertest.StartProcess(t)
	brokertest.KilledUnderLoad(t, server, func(id string) event.Broker {
		return stan.New(stan.Config{URL: server.URL, ClientID: id}, nil)
	}, nil)
}

func TestClusterUnderLoad(t *testing.T) {
	brokertest.ClusterUnderLoad(t, func(id, urls string) event.Broker {
		return stan.New(stan.Config{URL: urls, ClientID: id}, nil)
	}, func(t *testing.T, dir string) {
		brokertest.Truncate(t, dir, "store/*/msgs.*.dat")
	})
}

func connect(t *testing.T, cfg stan.Config) event.Session {
	t.Helper()
	return brokertest.Connect(t, stan.New(cfg, nil))
}
