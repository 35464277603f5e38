// Package jetstream is the [event.Broker] on NATS JetStream.
//
// An event stream, such as tickets, is kept in a JetStream stream of its own,
// turnstile-tickets, with the subject turnstile.tickets. It is made by whoever
// publishes or listens first, with limits retention and file storage; one that
// exists is left as it is, so that an operator may make it beforehand, or change
// it. A listener group is a durable pull consumer of that stream.
//
// JetStream does not know whether a client lives: it waits out the time for an
// acknowledgement before it gives a message to another. That time is short
// therefore, and a session that lives renews it for what its handlers are still
// working on. A process that has died holds up its messages for three seconds.
package jetstream

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
	"github.com/nats-io/nats.go/jetstream"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/internal/natsconn"
)

const (
	window   = 1024 // publishes under way in one session, few enough for a slow disk to answer in time
	maxPings = 3    // unanswered, before the session is given up
)

// Config says where the server is and how streams are made there. The zero value
// of a field is its default.
type Config struct {
	URL      string `env:"JETSTREAM_URL" envDefault:"nats://127.0.0.1:4222" doc:"address of a NATS server with JetStream, or several separated by commas; it may have a user and password, or a token"`
	Creds    string `env:"JETSTREAM_CREDS" doc:"file with the credentials of a NATS user"`
	ClientID string `env:"CLIENT_ID,expand" envDefault:"${POD_NAME}" doc:"name of this process to the broker"`

	// Replicas, MaxAge and MaxBytes are for streams that do not exist yet.
	// MaxAge must be longer than the ledger's archive: a message that the server
	// has dropped is nothing that a new listener group can start with.
	Replicas int           `env:"JETSTREAM_REPLICAS" envDefault:"1" doc:"servers that keep a copy of a stream made by us: 3 in a cluster"`
	MaxAge   time.Duration `env:"JETSTREAM_MAX_AGE" envDefault:"168h" doc:"how long a stream made by us keeps messages; longer than EVENT_ARCHIVE"`
	MaxBytes int64         `env:"JETSTREAM_MAX_BYTES" doc:"the most bytes that a stream made by us keeps, dropping the oldest; no limit if not set"`

	// PingInterval is how often the server should give a sign of life. When it
	// gives none for three times as long, the session is lost; so it is when a
	// subscription alone is dead for as long. And as long as that does the server
	// wait for one of ours, before it gives our messages to another.
	PingInterval time.Duration `env:"JETSTREAM_PING_INTERVAL" envDefault:"1s" doc:"how often the server should give a sign of life; after three are missing the session is lost"`

	// PublishTimeout is how long a message may stay without the server's
	// acknowledgement before it is reported as failed.
	PublishTimeout time.Duration `env:"JETSTREAM_PUBLISH_TIMEOUT" envDefault:"5s" doc:"how long to wait for the server to acknowledge a message"`
}

// Broker connects to one NATS server or cluster with JetStream.
type Broker struct {
	cfg Config
	log *slog.Logger
}

var _ event.Broker = (*Broker)(nil)

// New returns a broker. It does not connect. A nil log discards.
func New(cfg Config, log *slog.Logger) *Broker {
	cfg.URL = cmp.Or(cfg.URL, "nats://127.0.0.1:4222")
	cfg.Replicas = max(cfg.Replicas, 1)
	cfg.MaxAge = cmp.Or(cfg.MaxAge, 7*24*time.Hour)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, -1)
	cfg.PingInterval = cmp.Or(cfg.PingInterval, time.Second)
	cfg.PublishTimeout = cmp.Or(cfg.PublishTimeout, 5*time.Second)
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Broker{cfg: cfg, log: log}
}

// Name implements [event.Broker].
func (b *Broker) Name() string { return "jetstream" }

// Connect implements [event.Broker].
func (b *Broker) Connect(ctx context.Context) (event.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect to JetStream at %s: %w", b.address(), err)
	}
	s := &session{
		Session: natsconn.NewSession(errLost, window),
		cfg:     b.cfg,
		log:     b.log.With("url", b.address()),
		making:  make(chan struct{}, 1),
		answers: map[*nats.Msg]func(error){},
		streams: map[string]finding{},
	}
	dial := natsconn.NewDialer(ctx)
	err := s.connect(ctx, dial)
	aborted := !dial.Release()
	if err == nil && aborted {
		err = ctx.Err()
	}
	if err != nil {
		if s.nats != nil {
			s.nats.Close()
		}
		return nil, b.explain(ctx, err)
	}
	s.cut = dial.Cut
	go s.run()
	return s, nil
}

func (s *session) connect(ctx context.Context, dial *natsconn.Dialer) (err error) {
	options := append(natsconn.Options(dial, s.log, s.End),
		nats.Name(s.cfg.ClientID),
		nats.PingInterval(s.cfg.PingInterval),
		nats.MaxPingsOutstanding(maxPings-1),
	)
	if s.cfg.Creds != "" {
		options = append(options, nats.UserCredentials(s.cfg.Creds))
	}
	if s.nats, err = nats.Connect(s.cfg.URL, options...); err != nil {
		return err
	}
	s.js, err = jetstream.New(s.nats,
		jetstream.WithPublishAsyncMaxPending(window),
		jetstream.WithPublishAsyncTimeout(s.cfg.PublishTimeout),
		jetstream.WithPublishAsyncAckHandler(func(_ jetstream.JetStream, m *nats.Msg, _ *jetstream.PubAck) { s.answer(m, nil) }),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) { s.refused(m, err) }),
	)
	if err != nil {
		return err
	}
	// A server that runs without JetStream should be found out here, and not by
	// the first event.
	return ask(ctx, natsconn.Patience, func(ctx context.Context) error {
		_, err := s.js.AccountInfo(ctx)
		return err
	})
}

// explain says what to do about an error of Connect.
func (b *Broker) explain(ctx context.Context, err error) error {
	var network net.Error
	var parse *url.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("connect to JetStream at %s: %w", b.address(), ctx.Err())
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("a NATS server answers at %s, but without JetStream: run nats-server with -js, or correct JETSTREAM_URL (%w)", b.address(), err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("the server at %s has JetStream, but not for our account: enable it there (jetstream: enabled), or use another user (%w)", b.address(), err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("the server at %s does not let us in: are the user and password in JETSTREAM_URL, or the file JETSTREAM_CREDS, right? (%w)", b.address(), err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the server at %s accepts connections, but JetStream does not answer: is it starting, or has its cluster no majority? (%w)", b.address(), err)
	case errors.As(err, &parse):
		return fmt.Errorf("JETSTREAM_URL is not an address such as nats://host:4222: %w", parse.Err) // without the URL, which may hold a password
	case errors.Is(err, nats.ErrNoServers), errors.As(err, &network):
		return fmt.Errorf("no NATS server reachable at %s: is it running, and is JETSTREAM_URL right? (%w)", b.address(), err)
	}
	return fmt.Errorf("connect to JetStream at %s: %w", b.address(), err)
}

// address is the URL without passwords.
func (b *Broker) address() string { return natsconn.Addresses(b.cfg.URL) }

// prefix begins the name of every JetStream stream, and with a dot after it
// every subject, that is ours.
const prefix = "turnstile"

func streamName(stream string) string { return prefix + "-" + escape(stream) }

func subject(stream string) string { return prefix + "." + stream }

// escape makes a name that JetStream takes out of any other, a different one for
// each: all but ASCII letters, digits and the hyphen becomes an underscore and
// the byte in hexadecimal.
func escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

// checkStream refuses a name that is no subject, or more than one.
func checkStream(stream string) error {
	if strings.ContainsAny(stream, " \t\r\n\f*>") {
		return fmt.Errorf("%q cannot be a stream: NATS allows no spaces and no wildcards in it", stream)
	}
	for token := range strings.SplitSeq(stream, ".") {
		if token == "" {
			return fmt.Errorf("%q cannot be a stream: there must be something before and after every dot", stream)
		}
	}
	return nil
}
