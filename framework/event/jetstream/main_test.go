package jetstream_test

import (
	"testing"

	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/jetstream/jetstreamserver"
)

func TestMain(m *testing.M) {
	brokertest.Main(m, func(dir string, port int) (brokertest.Server, error) {
		return jetstreamserver.Start(jetstreamserver.Options{Dir: dir, Port: port})
	})
}
