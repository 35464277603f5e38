package event

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/turnstile-go/turnstile/framework/database"
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
	Workers        int           `env:"EVENT_WORKERS" doc:"handlers running at once; 4 on PostgreSQL, 1 on SQLite"`
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

// Client keeps one session with the broker, and over it runs an outbox's relay
// and a listener. It is a part of a service: Run it after the database is open,
// and stop it before the database closes.
type Client struct {
	cfg      Config
	broker   Broker
	relay    *relay
	listener *Listener // may be nil
	log      *slog.Logger

	mu    sync.Mutex
	ready map[string]error // by check: the broker and each subscription
}

// NewClient returns a client of the broker. A service that does not listen has
// no listener: nil. It panics if the metrics cannot be made.
func NewClient(cfg Config, outbox *Outbox, listener *Listener, t Telemetry, brokers ...Broker) *Client {
	broker := brokers[0]
	cfg = cfg.withDefaults(outbox.dialect)
	if t.Log == nil {
		t.Log = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(t)
	if err == nil {
		err = watch(t, outbox)
	}
	if err != nil {
		panic(err)
	}
	c := &Client{
		cfg: cfg, broker: broker, listener: listener, log: t.Log,
		relay: &relay{Outbox: outbox, cfg: cfg, log: t.Log, metrics: m},
		ready: map[string]error{"broker": errNotYet},
	}
	if listener != nil {
		listener.cfg, listener.log, listener.metrics = cfg, t.Log, m
		for _, stream := range listener.streams() {
			c.ready[subscriptionCheck(stream)] = errNotYet
		}
		// Room for all that the broker may have in flight, so that a busy
		// worker does not hold up the others.
		listener.queues = make([]chan *arrival, cfg.Workers)
		for i := range listener.queues {
			listener.queues[i] = make(chan *arrival, cfg.MaxInFlight*max(1, len(listener.streams())))
		}
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

func subscriptionCheck(stream string) string { return "subscription " + stream }

// Ready reports on the broker and on each subscription, by name.
func (c *Client) Ready() map[string]error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ready := make(map[string]error, len(c.ready))
	for name, err := range c.ready {
		ready[name] = err
	}
	return ready
}

func (c *Client) setReady(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready[name] = err
}

func (c *Client) setAway(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.ready {
		c.ready[name] = notReady("connection lost: " + err.Error())
	}
}

// Run relays and listens until ctx is done. Then it takes no more messages,
// lets running handlers finish and commit, and sends what is left in the
// outbox, for as long as Config.DrainTimeout. It comes back from every loss of
// the broker and the database, so it returns nil.
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
	var parts sync.WaitGroup
	parts.Go(func() { c.relay.runSchedule(stop) })
	parts.Go(func() { c.relay.runPrune(stop) })
	if c.listener != nil {
		parts.Go(func() { c.listener.run(ctx, stop) })
	}
	c.sessions(ctx, stop, since, &parts)
	return nil
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
		c.log.WarnContext(ctx, "events: waiting for the database", "err", err)
		if !failed.wait(stop, nil) {
			return since, false
		}
	}
}

// steady is how long a session must have lasted for the next to follow at once.
const steady = 5 * time.Second

// sessions keeps a session with the broker until stop is done and then drains
// it. since says from when on what was sent is in doubt.
func (c *Client) sessions(ctx, stop context.Context, since time.Time, parts *sync.WaitGroup) {
	failed := backoff{first: 50 * time.Millisecond, most: time.Second}
	for stop.Err() == nil {
		session, err := c.connect(ctx, stop, since)
		if err != nil {
			if stop.Err() != nil {
				break
			}
			c.setAway(err)
			c.log.WarnContext(ctx, "events: not connected to the broker; trying again", "err", err)
			if !failed.wait(stop, nil) {
				break
			}
			continue
		}
		start := time.Now()
		since = c.serve(ctx, stop, session, parts)
		if time.Since(start) > steady {
			failed.reset()
		} else if !failed.wait(stop, nil) {
			// Every new session sends again what the last one left in doubt;
			// one that keeps breaking must not do so in a tight loop.
			break
		}
	}
	parts.Wait()
}

// connect opens a session, and has sent again what its predecessor's end puts
// in doubt.
func (c *Client) connect(ctx, stop context.Context, since time.Time) (Session, error) {
	session, err := c.broker.Connect(stop)
	if err != nil {
		return nil, err
	}
	if err := c.relay.doubtSince(ctx, since); err != nil {
		_ = session.Close()
		return nil, err
	}
	return session, nil
}

// serve uses a session until it is lost or stop is done, and returns since
// when what was sent over it is in doubt.
func (c *Client) serve(ctx, stop context.Context, session Session, parts *sync.WaitGroup) (since time.Time) {
	c.setReady("broker", nil)
	c.log.InfoContext(ctx, "events: connected to the broker")

	over, end := context.WithCancel(stop)
	var relaying, subscribing sync.WaitGroup
	relaying.Go(func() { c.relay.run(ctx, over, session) })
	var stops []func() error
	if c.listener != nil {
		subscribing.Go(func() { stops = c.subscribe(stop, over, session) })
	}
	select {
	case <-session.Lost():
	case <-stop.Done():
	}
	since = time.Now().Add(-resendMargin)
	end()
	subscribing.Wait()
	if stop.Err() != nil {
		// The handlers that are still running acknowledge over this session,
		// and what they publish is to be sent before the process ends.
		parts.Wait()
	}
	for _, s := range stops {
		if err := s(); err != nil && !isLost(session) {
			c.log.WarnContext(ctx, "events: leave a subscription", "err", err)
		}
	}
	relaying.Wait()
	if isLost(session) {
		c.setAway(fmt.Errorf("lost at %s", time.Now().UTC().Format(time.RFC3339)))
		c.log.WarnContext(ctx, "events: the connection to the broker is lost; connecting anew")
	} else {
		if err := c.relay.flush(ctx, session); err != nil {
			c.log.WarnContext(ctx, "events: the outbox is not empty; what is left is sent by the next process", "err", err)
		}
	}
	if err := session.Close(); err != nil {
		c.log.DebugContext(ctx, "events: close the session", "err", err)
	}
	return since
}

// subscribe joins every stream, and tries again those that refuse, until over
// is done. It returns how to leave those joined.
func (c *Client) subscribe(stop, over context.Context, session Session) (stops []func() error) {
	failed := backoff{first: 50 * time.Millisecond, most: time.Second}
	todo := c.listener.streams()
	for {
		todo = slices.DeleteFunc(todo, func(stream string) bool {
			if over.Err() != nil || isLost(session) {
				return false
			}
			leave, err := session.Subscribe(over, Subscription{
				Stream: stream, Group: c.listener.group, MaxInFlight: c.cfg.MaxInFlight, AckWait: c.cfg.AckWait,
			}, func(d Delivery) { c.listener.deliver(stop, stream, d) })
			if err != nil {
				c.setReady(subscriptionCheck(stream), notReady(err.Error()))
				c.log.WarnContext(over, "events: not subscribed; trying again", "stream", stream, "group", c.listener.group, "err", err)
				return false
			}
			stops = append(stops, leave)
			c.setReady(subscriptionCheck(stream), nil)
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
