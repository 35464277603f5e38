package jetstream_test

import (
	"testing"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/jetstream"
	"github.com/turnstile-go/turnstile/framework/event/jetstream/jetstreamserver"
)

// embedded is a server in this process, that stops in order.
type embedded struct {
	*jetstreamserver.Server
	options jetstreamserver.Options
}

func startEmbedded(t *testing.T, o jetstreamserver.Options) *embedded {
	t.Helper()
	e := &embedded{options: o}
	e.start(t)
	e.options.Port = brokertest.Port(t, e.URL())
	t.Cleanup(func() { e.Shutdown() })
	return e
}

func (e *embedded) start(t *testing.T) {
	t.Helper()
	server, err := jetstreamserver.Start(e.options)
	if err != nil {
		t.Fatal(err)
	}
	e.Server = server
}

func TestConformance(t *testing.T) {
	eventtest.TestBroker(t, func(t *testing.T) eventtest.Harness {
		server := startEmbedded(t, jetstreamserver.Options{Dir: t.TempDir()})
		return eventtest.Harness{
			Broker: func(id string) event.Broker {
				return jetstream.New(jetstream.Config{URL: server.URL(), ClientID: id}, nil)
			},
			Kill:    func() { server.Shutdown() },
			Restart: func() { server.start(t) },
		}
	})
}

// The same with a server that is killed, instead of shut down.
func TestConformanceKilled(t *testing.T) {
	eventtest.TestBroker(t, func(t *testing.T) eventtest.Harness {
		server := brokertest.StartProcess(t)
		return eventtest.Harness{
			Broker: func(id string) event.Broker {
				return jetstream.New(jetstream.Config{URL: server.URL, ClientID: id}, nil)
			},
			Kill:    server.Kill,
			Restart: server.Start,
		}
	})
}
