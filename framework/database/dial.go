package database

import (
	"context"
	"net"
	"time"

	"github.com/turnstile-go/turnstile/framework/internal/hedge"
)

// unanswered is how long what was sent may stay without acknowledgement, which
// keepalives do not look at.
const unanswered = 25 * time.Second

// dial makes a connection that ends within half a minute when the machine of
// its server is gone or cannot be reached. Otherwise who waits for an answer
// would wait for a quarter of an hour, while another server has taken over.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return hedge.Dial(ctx, &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control:         limitUnanswered,
	}, network, addr)
}
