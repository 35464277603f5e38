// Package natsconn is how brokers connect to NATS servers: while a context
// lasts, without a password in what they log, and never a second time by
// themselves. And it is what their sessions have in common.
package natsconn

import (
	"context"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/turnstile-go/turnstile/framework/internal/hedge"
)

// Patience is for the server's answer to a request, and for a write to get
// through.
const Patience = 2 * time.Second

// Options has a connection end for good when it is lost, and say so. No
// subscription survives a server's death for certain, so a new connection makes
// them anew. lost is called with the reason, from any goroutine, and not when
// somebody has closed the connection.
func Options(dial *Dialer, log *slog.Logger, lost func(error)) []nats.Option {
	return []nats.Option{
		nats.NoReconnect(),
		nats.ClosedHandler(func(nc *nats.Conn) {
			if err := nc.LastError(); err != nil { // it is nil if nobody but we closed it
				lost(err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("NATS reports an error", "error", err)
		}),
		nats.SetCustomDialer(dial),
		nats.SkipHostLookup(), // the dialer does it, and observes its context
		nats.Timeout(Patience),
		nats.FlusherTimeout(Patience),
		nats.ReconnectOnFlusherError(), // without reconnecting that is: end
	}
}

// Addresses returns a list of URLs separated by commas without their passwords
// and tokens.
func Addresses(urls string) string {
	var list []string
	for part := range strings.SplitSeq(urls, ",") {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part // as NATS reads it
		}
		u, err := url.Parse(part)
		switch {
		case err != nil:
			part = "(unreadable)"
		case u.User != nil:
			if _, ok := u.User.Password(); !ok {
				u.User = url.User("xxxxx") // it is a token
			}
			part = u.Redacted()
		}
		list = append(list, part)
	}
	return strings.Join(list, ",")
}

// Dialer makes the TCP connections of one attempt to connect and ends them with
// the context of that, until it is released.
type Dialer struct {
	ctx context.Context

	mu      sync.Mutex
	current net.Conn
	unwatch func() bool
}

var _ nats.CustomDialer = (*Dialer)(nil)

// NewDialer returns a dialer whose connections end with ctx.
func NewDialer(ctx context.Context) *Dialer { return &Dialer{ctx: ctx} }

// Dial implements nats.CustomDialer.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := hedge.Dial(d.ctx, &net.Dialer{Timeout: Patience}, network, address)
	if err != nil {
		return nil, err
	}
	d.Release()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current = conn
	d.unwatch = context.AfterFunc(d.ctx, func() { conn.Close() })
	return conn, nil
}

// Release lets the connection outlive the context. It is false if that is too
// late.
func (d *Dialer) Release() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unwatch == nil || d.unwatch()
}

// Cut closes the connection, whatever is blocked on it.
func (d *Dialer) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil {
		d.current.Close()
	}
}
