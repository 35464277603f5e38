// Package stan is the [event.Broker] on NATS Streaming.
//
// NATS Streaming has reached the end of its life in 2023: it is here because
// systems run on it, and to move them off it, to package jetstream beside this.
//
// A server should notice dead clients soon, or their unacknowledged messages
// wait for minutes: run it with -hbi 1s -hbt 1s -hbf 2.
package stan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"github.com/nats-io/stan.go"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/internal/natsconn"
)

const (
	window   = 4096 // publishes under way in one session
	maxPings = 3    // unanswered, before the session is given up
)

// Config says where the server is and who we are to it. The zero value of a
// field is its default.
type Config struct {
	URL       string `env:"NATS_URL" envDefault:"nats://127.0.0.1:4222" doc:"address of the NATS Streaming server, or several separated by commas"`
	ClusterID string `env:"STAN_CLUSTER_ID" envDefault:"turnstile" doc:"the server's -cluster_id"`
	ClientID  string `env:"CLIENT_ID,expand" envDefault:"${POD_NAME}" doc:"name of this process to the server, different from every other's; made up if empty"`

	// PingInterval is how often the server is asked whether the session lives,
	// in whole seconds. After three unanswered pings it is lost.
	PingInterval time.Duration `env:"STAN_PING_INTERVAL" envDefault:"1s" doc:"how often to ask the server for a sign of life, in whole seconds; after three without an answer the session is lost"`

	// PublishTimeout is how long a message may stay without the server's
	// acknowledgement before it is reported as failed.
	PublishTimeout time.Duration `env:"STAN_PUBLISH_TIMEOUT" envDefault:"3s" doc:"how long to wait for the server to acknowledge a message"`
}

// Broker connects to one NATS Streaming server or cluster.
type Broker struct {
	cfg Config
	log *slog.Logger
}

var _ event.Broker = (*Broker)(nil)

// New returns a broker. It does not connect. A nil log discards.
//
// The server knows a client by its id and lets it have one session: as long as
// an earlier one answers, Connect fails. Once that has died, or is stuck for
// half a second, the new one takes its place, and the old one is lost.
func New(cfg Config, log *slog.Logger) *Broker {
	cfg.URL = cmp.Or(cfg.URL, "nats://127.0.0.1:4222")
	cfg.ClusterID = cmp.Or(cfg.ClusterID, "turnstile")
	cfg.ClientID = clientID(cmp.Or(cfg.ClientID, "turnstile-"+nuid.Next()))
	cfg.PingInterval = cmp.Or(cfg.PingInterval, time.Second)
	cfg.PublishTimeout = cmp.Or(cfg.PublishTimeout, 3*time.Second)
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Broker{cfg: cfg, log: log}
}

// clientID replaces what the server does not allow in a client id.
func clientID(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
			return r
		}
		return '-'
	}, s)
}

// Name implements [event.Broker].
func (b *Broker) Name() string { return "stan" }

// Connect implements [event.Broker].
func (b *Broker) Connect(ctx context.Context) (event.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect to NATS Streaming at %s: %w", b.address(), err)
	}
	dial := natsconn.NewDialer(ctx)
	s := &session{
		Session: natsconn.NewSession(errLost, window),
		log:     b.log.With("url", b.address(), "client_id", b.cfg.ClientID),
	}
	conn, err := stan.Connect(b.cfg.ClusterID, b.cfg.ClientID,
		stan.NatsURL(b.cfg.URL),
		stan.NatsOptions(natsconn.Options(dial, s.log, s.End)...),
		stan.ConnectWait(natsconn.Patience),
		stan.PubAckWait(b.cfg.PublishTimeout),
		stan.MaxPubAcksInflight(window),
		stan.Pings(seconds(b.cfg.PingInterval), maxPings),
		stan.SetConnectionLostHandler(func(_ stan.Conn, err error) { s.End(err) }),
	)
	aborted := !dial.Release()
	if err == nil && aborted {
		conn.Close() // at once: its connection is closed
		err = ctx.Err()
	}
	if err != nil {
		return nil, b.explain(ctx, err)
	}
	s.conn, s.cut = conn, dial.Cut
	go s.run()
	return s, nil
}

// explain says what to do about an error of Connect.
func (b *Broker) explain(ctx context.Context, err error) error {
	var network net.Error
	var parse *url.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("connect to NATS Streaming at %s: %w", b.address(), ctx.Err())
	case errors.Is(err, stan.ErrConnectReqTimeout):
		return fmt.Errorf("a NATS server answers at %s, but no NATS Streaming server with the cluster id %q: is one running with -cluster_id %s, or is STAN_CLUSTER_ID wrong? (%w)",
			b.address(), b.cfg.ClusterID, b.cfg.ClusterID, err)
	case strings.Contains(err.Error(), "clientID already registered"):
		return fmt.Errorf("the client id %q is in use at %s by a process that lives: give each its own CLIENT_ID, or wait until that one has ended (%w)",
			b.cfg.ClientID, b.address(), err)
	case errors.As(err, &parse):
		return fmt.Errorf("NATS_URL is not an address such as nats://host:4222: %w", parse.Err) // without the URL, which may hold a password
	case errors.Is(err, nats.ErrNoServers), errors.As(err, &network):
		return fmt.Errorf("no NATS server reachable at %s: is it running, and is NATS_URL right? (%w)", b.address(), err)
	}
	return fmt.Errorf("connect to NATS Streaming at %s: %w", b.address(), err)
}

// address is the URL without passwords.
func (b *Broker) address() string { return natsconn.Addresses(b.cfg.URL) }

// seconds rounds d up to whole seconds, one at least.
func seconds(d time.Duration) int {
	return max(1, int((d+time.Second-1)/time.Second))
}
