package jetstream_test

import (
	"testing"

	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/jetstream/jetstreamserver"
)

func TestMain(m *testing.M) {
	brokertest.Main(m, func(n brokertest.Node) (brokertest.Server, error) {
		return jetstreamserver.Start(jetstreamserver.Options{Dir: n.Dir, Port: n.Port, Token: n.Token, Name: n.Name, Peers: n.Peers})
	})
}
