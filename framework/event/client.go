package event

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/internal/logs"
)

//go:embed migrations
var migrations embed.FS

// Migrations returns the ledger's tables, whose names begin with event_. They
// live in the service's own database: pass them to database.New.
func Migrations() database.Migrations {
	folder := func(name string) fs.FS {
		sub, err := fs.Sub(migrations, "migrations/"+name)
		if err != nil {
			panic(err) // the folders are compiled in
		}
		return sub
	}
	return database.Migrations{Table: "event_schema", Postgres: folder("postgres"), SQLite: folder("sqlite")}
}

// Config tunes a Client. A zero field has its default.
type Config struct {
	Workers        int           `env:"EVENT_WORKERS" doc:"handlers running at once, each on a connection of DATABASE_MAX_CONNS; 4 on PostgreSQL, 1 on SQLite, which has one writer"`
	Batch          int           `env:"EVENT_BATCH" envDefault:"100" doc:"the most events in one transaction"`
	MaxInFlight    int           `env:"EVENT_MAX_IN_FLIGHT" envDefault:"256" doc:"messages taken from the broker and not yet acknowledged, per stream"`
	AckWait        time.Duration `env:"EVENT_ACK_WAIT" envDefault:"30s" doc:"after which the broker delivers again; over three times the longest batch"`
	HandlerTimeout time.Duration `env:"EVENT_HANDLER_TIMEOUT" envDefault:"10s" doc:"the longest that a handler may take"`
	Attempts       int           `env:"EVENT_ATTEMPTS" envDefault:"12" doc:"how often a handler is tried before its event is dead"`
	RetryFirst     time.Duration `env:"EVENT_RETRY_FIRST" envDefault:"500ms" doc:"the pause after the first failure; it doubles"`
	RetryMost      time.Duration `env:"EVENT_RETRY_MOST" envDefault:"1m" doc:"the longest pause between attempts"`
	GapTimeout     time.Duration `env:"EVENT_GAP_TIMEOUT" envDefault:"1m" doc:"after which a missing event is reported"`
	Archive        time.Duration `env:"EVENT_ARCHIVE" envDefault:"72h" doc:"how long sent events are kept, so that they can be sent again"`
	DrainTimeout   time.Duration `env:"EVENT_DRAIN_TIMEOUT" envDefault:"15s" doc:"how long running handlers and the outbox may take when the service stops"`
	Journal        bool          `env:"EVENT_JOURNAL" doc:"record every handled event in event_journal, for as long as the archive"`

	// Lead elects who does what only one process of the service should, as
	// Client.Lead says. Nil is a lease in the database.
	Lead func(ctx context.Context, task string, do func(ctx context.Context)) error `env:"-" json:"-"`
}

func (c Config) withDefaults(d dialect) Config {
	c.Workers = cmp.Or(max(c.Workers, 0), d.workers)
	c.Batch = cmp.Or(max(c.Batch, 0), 100)
	c.MaxInFlight = cmp.Or(max(c.MaxInFlight, 0), 256)
	c.AckWait = cmp.Or(max(c.AckWait, 0), 30*time.Second)
	c.HandlerTimeout = cmp.Or(max(c.HandlerTimeout, 0), 10*time.Second)
	c.Attempts = cmp.Or(max(c.Attempts, 0), 12)
	c.RetryFirst = cmp.Or(max(c.RetryFirst, 0), 500*time.Millisecond)
	c.RetryMost = max(cmp.Or(max(c.RetryMost, 0), time.Minute), c.RetryFirst)
	c.GapTimeout = cmp.Or(max(c.GapTimeout, 0), time.Minute)
	c.Archive = cmp.Or(max(c.Archive, 0), 72*time.Hour)
	c.DrainTimeout = cmp.Or(max(c.DrainTimeout, 0), 15*time.Second)
	return c
}

// adoptAfter is how long the first events of a key may be on their way before
// a group that subscribed late takes a later one as the key's start.
func (c Config) adoptAfter() time.Duration { return min(5*time.Second, c.GapTimeout) }

// Client keeps a session with each of a service's brokers, and over them runs
// an outbox's relay and a listener. It is a part of a service: Run it after the
// database is open, and stop it before the database closes.
type Client struct {
	cfg      Config
	brokers  []Broker
	relay    *relay
	listener *Listener // may be nil
	log      *slog.Logger

	mu    sync.Mutex
	ready map[string]error // by check: each broker and each subscription
	away  map[string]bool  // brokers that people have been told are away
}

// NewClient returns a client of the brokers. It publishes every event to all
// that are connected and listens on all of them, which is how a system moves
// from one to another without a stop; usually there is one. A service that does
// not listen has no listener: nil. NewClient panics if there is no broker or
// two have one name, or if the metrics cannot be made.
func NewClient(cfg Config, outbox *Outbox, listener *Listener, t Telemetry, brokers ...Broker) *Client {
	cfg = cfg.withDefaults(outbox.dialect)
	if t.Log == nil {
		t.Log = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(t)
	if err != nil {
		panic(err)
	}
	c := &Client{
		cfg: cfg, brokers: brokers, listener: listener, log: t.Log,
		relay: &relay{
			Outbox: outbox, cfg: cfg, log: t.Log, metrics: m, name: processName(),
			joins: make(chan *joining), called: make(chan struct{}, 1), unmarked: map[int64][]string{}, repairs: map[string]*repairs{},
		},
		ready: map[string]error{}, away: map[string]bool{},
	}
	if len(brokers) == 0 {
		panic("event: a client needs a broker")
	}
	for _, b := range brokers {
		for _, check := range c.checks(b) {
			if _, twice := c.ready[check]; twice {
				panic(fmt.Sprintf("event: two brokers have the name %s", b.Name()))
			}
			c.ready[check] = errNotYet
		}
	}
	if listener != nil {
		listener.cfg, listener.log, listener.metrics = cfg, t.Log, m
		// Room for all that the brokers may have in flight, and deliver again,
		// so that a slow handler does not hold up the others.
		room := 4 * cfg.MaxInFlight * max(1, len(listener.streams())) * len(brokers)
		listener.workers = newWorkers(cfg.Workers, cfg.Batch, room)
	}
	if err := watch(t, outbox, listener); err != nil {
		panic(err)
	}
	return c
}

// notReady is why a check fails. The service still serves without its broker:
// what it publishes waits in the outbox.
type notReady string

func (e notReady) Error() string { return string(e) }

// Degraded tells the service that it can go on.
func (e notReady) Degraded() bool { return true }

const errNotYet = notReady("not connected yet")

func brokerCheck(b Broker) string { return "broker " + b.Name() }

func subscriptionCheck(b Broker, stream string) string {
	return "subscription " + stream + " on " + b.Name()
}

// checks returns the names of the checks that hang on a broker.
func (c *Client) checks(b Broker) []string {
	names := []string{brokerCheck(b)}
	if c.listener != nil {
		for _, stream := range c.listener.streams() {
			names = append(names, subscriptionCheck(b, stream))
		}
	}
	return names
}

// Ready reports on each broker and on each subscription, by name.
func (c *Client) Ready() map[string]error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.ready)
}

func (c *Client) setReady(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready[name] = err
}

func (c *Client) setAway(b Broker, err error) {
	for _, check := range c.checks(b) {
		c.setReady(check, notReady("connection lost: "+err.Error()))
	}
}

// turn records whether a broker is away, and reports whether that is news.
func (c *Client) turn(b Broker, away bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away[b.Name()] == away {
		return false
	}
	c.away[b.Name()] = away
	return true
}

// Adjust says that the number of workers may change while the client runs. An
// event that a handler is at is finished with; none is lost or overtaken.
func (c *Client) Adjust() map[string]func(value string) error {
	return map[string]func(value string) error{"EVENT_WORKERS": func(value string) error {
		n := c.relay.dialect.workers
		if value != "" {
			var err error
			if n, err = strconv.Atoi(value); err != nil || n < 1 {
				return errors.New("want a number, 1 or more")
			}
		}
		switch most := min(c.relay.db.Writers(), maxWorkers); {
		case n <= most:
		case !c.relay.dialect.locks:
			return errors.New("want 1, because SQLite has one writer")
		default:
			return fmt.Errorf("want %d at most, because each holds a connection to the database while it runs, of which there are DATABASE_MAX_CONNS", most)
		}
		if c.listener != nil {
			c.listener.workers.resize(n)
		}
		return nil
	}}
}

// Run relays and listens until ctx is done. Then it takes no more messages,
// lets running handlers finish and commit, and sends what is left in the
// outbox, for as long as Config.DrainTimeout. It comes back from every loss of
// a broker and the database, so it returns nil.
func (c *Client) Run(stop context.Context) error {
	// The work outlives stop, so that handlers can finish.
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	limit := time.AfterFunc(time.Hour, cancel)
	limit.Stop()
	defer limit.Stop()
	defer context.AfterFunc(stop, func() { limit.Reset(c.cfg.DrainTimeout) })()

	since, ok := c.prepare(ctx, stop)
	if !ok {
		return nil
	}
	var parts, links sync.WaitGroup
	parts.Go(func() { c.attend(stop) })
	parts.Go(func() { c.hear(stop) })
	parts.Go(func() { c.relay.runSchedule(stop) })
	parts.Go(func() { c.prune(stop) })
	if c.listener != nil {
		parts.Go(func() { c.listener.run(ctx, stop) })
	}
	drained := make(chan struct{})
	for _, b := range c.brokers {
		links.Go(func() { c.sessions(ctx, stop, b, since, drained) })
	}
	c.relay.run(ctx, stop)
	// The handlers that are still running acknowledge over the sessions, and
	// what they publish is to be sent before the process ends.
	parts.Wait()
	if err := c.relay.flush(ctx); err != nil {
		c.log.WarnContext(ctx, "events: the outbox is not empty; what is left is sent by the next process", "error", err)
	}
	close(drained)
	links.Wait()
	c.retire(ctx)
	return nil
}

// prune has the archive pruned by one process of the service at a time.
func (c *Client) prune(stop context.Context) {
	failed := backoff{first: time.Second, most: time.Minute}
	for {
		err := c.Lead(stop, "prune", c.relay.runPrune)
		if stop.Err() != nil {
			return
		}
		c.log.WarnContext(stop, "archive: it is not known who prunes it; trying again", "error", err)
		if !failed.wait(stop, nil) {
			return
		}
	}
}

// prepare does what must be done before the first session. It returns since
// when what was sent is in doubt, and false if stop came first.
func (c *Client) prepare(ctx, stop context.Context) (since time.Time, ok bool) {
	failed := backoff{first: 50 * time.Millisecond, most: 5 * time.Second}
	for {
		err := func() error {
			last, any, err := c.relay.lastSent(ctx)
			if err != nil {
				return err
			}
			if since = time.Now(); any {
				since = last.Add(-resendMargin)
			}
			if c.listener == nil {
				return nil
			}
			return c.listener.prepare(ctx)
		}()
		if err == nil {
			return since, true
		}
		c.log.WarnContext(ctx, "events: waiting for the database", "error", err)
		if !failed.wait(stop, nil) {
			return since, false
		}
	}
}

// steady is how long a session must have lasted for the next to follow at once.
const steady = 5 * time.Second

// sessions keeps a session with the broker until the client is drained. since
// says from when on what was sent is in doubt.
func (c *Client) sessions(ctx, stop context.Context, b Broker, since time.Time, drained <-chan struct{}) {
	failed := backoff{first: 50 * time.Millisecond, most: time.Second}
	for stop.Err() == nil {
		session, err := c.connect(stop, b, since)
		if err != nil {
			if stop.Err() != nil {
				return
			}
			c.setAway(b, err)
			attrs := []any{"broker", b.Name(), "error", err}
			if !errors.As(err, new(joinError)) && c.turn(b, true) {
				attrs = append(attrs, logs.Notice("BrokerLost"))
			}
			c.log.WarnContext(ctx, "events: not connected to the broker; trying again: is it up, and is its address right?", attrs...)
			if !failed.wait(stop, nil) {
				return
			}
			continue
		}
		start := time.Now()
		since = c.serve(ctx, stop, b, session, drained)
		if time.Since(start) > steady {
			failed.reset()
		} else if !failed.wait(stop, nil) {
			// Every new session records what the last one left in doubt, and
			// subscribes; not in a tight loop.
			return
		}
	}
}

// connect opens a session and has the relay send to it.
func (c *Client) connect(stop context.Context, b Broker, since time.Time) (Session, error) {
	session, err := b.Connect(stop)
	if err != nil {
		return nil, err
	}
	if err := c.relay.join(stop, b.Name(), session, since); err != nil {
		return nil, errors.Join(joinError{err}, session.Close())
	}
	return session, nil
}

// joinError says that it is not for the broker that nothing is sent to it.
type joinError struct{ error }

func (e joinError) Unwrap() error { return e.error }

// serve uses a session until it is lost or the client is drained, and returns
// since when what was sent over it is in doubt.
func (c *Client) serve(ctx, stop context.Context, b Broker, session Session, drained <-chan struct{}) (since time.Time) {
	c.setReady(brokerCheck(b), nil)
	if c.turn(b, false) {
		c.log.InfoContext(ctx, "events: connected to the broker again; what it may have missed is sent again", "broker", b.Name(), logs.Notice("BrokerRegained"))
	} else {
		c.log.InfoContext(ctx, "events: connected to the broker", "broker", b.Name())
	}

	over, end := context.WithCancel(stop)
	defer end()
	var subscribing sync.WaitGroup
	var stops []func() error
	if c.listener != nil {
		subscribing.Go(func() { stops = c.subscribe(over, b, session) })
	}
	select {
	case <-session.Lost():
	case <-stop.Done():
	}
	since = time.Now().Add(-resendMargin)
	end()
	subscribing.Wait()
	if stop.Err() != nil {
		<-drained
	}
	for _, s := range stops {
		if err := s(); err != nil && !isLost(session) {
			c.log.WarnContext(ctx, "events: leave a subscription", "broker", b.Name(), "error", err)
		}
	}
	if isLost(session) {
		c.setAway(b, fmt.Errorf("lost at %s", time.Now().UTC().Format(time.RFC3339)))
		c.turn(b, true)
		c.log.WarnContext(ctx, "events: the connection to the broker is lost; connecting anew, and events wait meanwhile: if it stays away, look at the broker",
			"broker", b.Name(), logs.Notice("BrokerLost"))
		c.relay.recordDoubt(ctx, b.Name(), since)
	}
	if err := session.Close(); err != nil {
		c.log.DebugContext(ctx, "events: close the session", "broker", b.Name(), "error", err)
	}
	return since
}

// subscribe joins every stream, and tries again those that refuse, until over
// is done. It returns how to leave those joined.
func (c *Client) subscribe(over context.Context, b Broker, session Session) (stops []func() error) {
	failed := backoff{first: 50 * time.Millisecond, most: time.Second}
	todo := c.listener.streams()
	for {
		todo = slices.DeleteFunc(todo, func(stream string) bool {
			if over.Err() != nil || isLost(session) {
				return false
			}
			leave, err := session.Subscribe(over, Subscription{
				Stream: stream, Group: c.listener.group, MaxInFlight: c.cfg.MaxInFlight, AckWait: c.cfg.AckWait,
			}, func(d Delivery) { c.listener.deliver(over, b.Name(), stream, d) })
			if err != nil {
				c.setReady(subscriptionCheck(b, stream), notReady(err.Error()))
				c.log.WarnContext(over, "events: not subscribed; trying again", "broker", b.Name(), "stream", stream, "group", c.listener.group, "error", err)
				return false
			}
			stops = append(stops, leave)
			c.setReady(subscriptionCheck(b, stream), nil)
			return true
		})
		if len(todo) == 0 || !failed.wait(over, session.Lost()) {
			return stops
		}
	}
}

// Describe tells what the service publishes and listens to, with the JSON
// Schema of every type.
func (c *Client) Describe() map[string]any {
	type described struct {
		Stream string             `json:"stream"`
		Type   string             `json:"type"`
		Group  string             `json:"group,omitempty"`
		Schema *jsonschema.Schema `json:"schema,omitempty"`
	}
	byName := func(a, b described) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Type, b.Type))
	}
	reflector := jsonschema.Reflector{Anonymous: true, DoNotReference: true, AllowAdditionalProperties: true}
	publishes, listens := []described{}, []described{}
	for m, e := range c.relay.declared {
		publishes = append(publishes, described{Stream: m.Stream, Type: m.Type, Schema: reflector.Reflect(e)})
	}
	if c.listener != nil {
		for m, h := range c.listener.handlers {
			if h.call != nil {
				listens = append(listens, described{Stream: m.Stream, Type: m.Type, Group: c.listener.group, Schema: reflector.ReflectFromType(h.data)})
			}
		}
	}
	slices.SortFunc(publishes, byName)
	slices.SortFunc(listens, byName)
	return map[string]any{"publishes": publishes, "listens": listens}
}
