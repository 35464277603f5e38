package brokertest

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/event"
)

// Nobody returns an address, as in 127.0.0.1:1234, where nobody listens.
func Nobody(t *testing.T) string {
	t.Helper()
	l := listen(t)
	l.Close()
	return l.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// ConnectFails is a test: the error of b's Connect says want, and gives away no
// password, which is hush in b's URL if it has one.
func ConnectFails(t *testing.T, b event.Broker, want string) {
	t.Helper()
	_, err := b.Connect(t.Context())
	if err == nil {
		t.Fatal("connected")
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("error %q gives the password away", err)
	}
}

// ConnectIsCancelled is a test: a server that accepts a connection and says
// nothing holds Connect up no longer than its context.
func ConnectIsCancelled(t *testing.T, newBroker func(url string) event.Broker) {
	silent := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := silent.Accept()
		cancel()
		if err == nil {
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1)) // until it is closed
		}
	}()
	start := time.Now()
	_, err := newBroker("nats://" + silent.Addr().String()).Connect(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("connect: %v, want context.Canceled", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("connect took %v to notice its context", took)
	}
}
