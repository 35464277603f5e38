package jetstream_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/jetstream"
	"github.com/turnstile-go/turnstile/framework/event/jetstream/jetstreamserver"
)

// everySync runs a benchmark with a server that syncs now and then, and with one
// that syncs every message before it acknowledges it.
func everySync(b *testing.B, run func(b *testing.B, url string)) {
	for _, always := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync_always=%t", always), func(b *testing.B) {
			server, err := jetstreamserver.Start(jetstreamserver.Options{Dir: b.TempDir(), SyncAlways: always})
			if err != nil {
				b.Fatal(err)
			}
			defer server.Shutdown()
			run(b, server.URL())
		})
	}
}

func BenchmarkCommitToEffect(b *testing.B) {
	everySync(b, func(b *testing.B, url string) {
		nc, err := nats.Connect(url)
		if err != nil {
			b.Fatal(err)
		}
		defer nc.Close()
		js, err := natsjs.New(nc)
		if err != nil {
			b.Fatal(err)
		}
		stream, err := js.CreateStream(b.Context(), natsjs.StreamConfig{Name: "raw", Subjects: []string{"raw"}})
		if err != nil {
			b.Fatal(err)
		}
		consumer, err := stream.CreateConsumer(b.Context(), natsjs.ConsumerConfig{Durable: "group", AckPolicy: natsjs.AckExplicitPolicy})
		if err != nil {
			b.Fatal(err)
		}
		arrived := make(chan time.Time, 1)
		receiving, err := consumer.Consume(func(m natsjs.Msg) {
			arrived <- time.Now()
			if err := m.Ack(); err != nil {
				b.Error(err)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		defer receiving.Stop()
		brokertest.CommitToEffect(b,
			func(id string) event.Broker { return jetstream.New(jetstream.Config{URL: url, ClientID: id}, nil) },
			func(body []byte) error { _, err := js.Publish(b.Context(), "raw", body); return err }, arrived)
	})
}

// BenchmarkPublish measures how many messages a session gets stored while its
// window is full.
func BenchmarkPublish(b *testing.B) {
	everySync(b, func(b *testing.B, url string) {
		s, err := jetstream.New(jetstream.Config{URL: url}, nil).Connect(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		body := make([]byte, 300)
		var answers sync.WaitGroup
		for b.Loop() {
			answers.Add(1)
			s.Publish(b.Context(), "tickets", body, func(err error) {
				if err != nil {
					b.Error(err)
				}
				answers.Done()
			})
		}
		answers.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	})
}
