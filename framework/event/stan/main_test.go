package stan_test

import (
	"testing"

	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/stan/stanserver"
)

func TestMain(m *testing.M) {
	brokertest.Main(m, func(dir string, port int) (brokertest.Server, error) {
		return stanserver.Start(stanserver.Options{Dir: dir, Port: port})
	})
}
