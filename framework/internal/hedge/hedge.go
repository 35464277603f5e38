// Package hedge makes connections in time even if packets are lost.
package hedge

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// pause is how long an attempt is without an answer when another one begins beside it. The attempts at several addresses
	// of one server (RFC 8305, Happy Eyeballs) are as far apart.
	pause = 250 * time.Millisecond

	// most is how many attempts there are at once, the last of which begins when the kernel repeats the first.
	most = 5
)

// A Dialer makes one attempt, as [net.Dialer] does.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Dial returns the first connection that d makes, and asks it for another as long as there is no answer. The kernel sends
// the packet that opens a connection again only after a second, and it is lost easily: in a cluster those of a new pod are
// until all NetworkPolicies know its address. An error is an answer, too. When Dial returns, all attempts have ended;
// connections that are one too many are closed. By a Unix socket, which loses nothing, there is only one attempt.
func Dial(ctx context.Context, d Dialer, network, address string) (net.Conn, error) {
	if network == "unix" {
		return d.DialContext(ctx, network, address)
	}
	type answer struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan answer, most)
	var attempts sync.WaitGroup
	defer func() {
		cancel()
		attempts.Wait()
		close(answers)
		for a := range answers {
			if a.err == nil {
				_ = a.conn.Close()
			}
		}
	}()
	for n := 1; ; n++ {
		attempts.Go(func() {
			conn, err := d.DialContext(ctx, network, address)
			answers <- answer{conn, err}
		})
		var next <-chan time.Time
		if n < most {
			next = time.After(pause)
		}
		select {
		case a := <-answers: // at the latest when ctx ends
			return a.conn, a.err
		case <-next:
		}
	}
}
