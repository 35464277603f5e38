package stan_test

import (
	"testing"

	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/stan/stanserver"
)

func TestMain(m *testing.M) {
	brokertest.Main(m, func(n brokertest.Node) (brokertest.Server, error) {
		return stanserver.Start(stanserver.Options{Dir: n.Dir, Port: n.Port, Token: n.Token, Name: n.Name, Peers: n.Peers})
	})
}
