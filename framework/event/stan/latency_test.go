package stan_test

import (
	"testing"
	"time"

	stango "github.com/nats-io/stan.go"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/stan"
	"github.com/turnstile-go/turnstile/framework/event/stan/stanserver"
)

// The server's store syncs, as do the databases.
func BenchmarkCommitToEffect(b *testing.B) {
	server, err := stanserver.Start(stanserver.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Shutdown()

	raw, err := stango.Connect("turnstile", "raw", stango.NatsURL(server.URL()))
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	arrived := make(chan time.Time, 1)
	if _, err := raw.QueueSubscribe("raw", "group", func(m *stango.Msg) { arrived <- time.Now() }, stango.DurableName("group")); err != nil {
		b.Fatal(err)
	}
	brokertest.CommitToEffect(b,
		func(id string) event.Broker { return stan.New(stan.Config{URL: server.URL(), ClientID: id}, nil) },
		func(body []byte) error { return raw.Publish("raw", body) }, arrived)
}
