package jetstream_test

import (
	"testing"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/jetstream"
)

func TestClusterUnderLoad(t *testing.T) {
	brokertest.ClusterUnderLoad(t, func(id, urls string) event.Broker {
		return jetstream.New(jetstream.Config{URL: urls, ClientID: id, Replicas: 3}, nil)
	}, func(t *testing.T, dir string) {
		brokertest.Truncate(t, dir, "jetstream/*/streams/*/msgs/*.blk")
	})
}
