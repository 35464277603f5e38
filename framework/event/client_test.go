package event_test

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// A service that stops finishes what its handlers are at, and sends what they
// published.
func TestDrain(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{answers: true}
		o := event.NewOutbox(db, "back", pong{})
		l := event.NewListener(db, "back")
		entered, proceed := make(chan struct{}), make(chan struct{})
		event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[ping]) error {
			close(entered)
			<-proceed
			if err := record(ctx, tx, "back", m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value); err != nil {
				return err
			}
			return o.Publish(ctx, tx, pong{m.Key, m.Data.Value})
		})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- event.NewClient(quick, o, l, event.Telemetry{}, b).Run(ctx) }()
		acked := b.deliver(t, "pings", message{key: "a", seq: 1}.body(), false)
		receive(t, entered, "the handler")
		stop()
		select {
		case <-done:
			t.Error("Run returns while a handler is running")
		case <-time.After(50 * time.Millisecond):
		}
		close(proceed)
		if err := receive(t, done, "the end of Run"); err != nil {
			t.Errorf("Run: %v", err)
		}
		receive(t, acked, "the acknowledgement")
		if got := applied(t, db, "a"); !slices.Equal(got, upTo(1)) {
			t.Errorf("applied %v", got)
		}
		if p := receive(t, b.current().published, "the pong"); p.stream != "pongs" {
			t.Errorf("sent on %s", p.stream)
		}
		if n := count(t.Context(), db, "event_outbox WHERE sent_at IS NULL"); n != 0 {
			t.Errorf("%d events were not sent", n)
		}
	})
}

// A handler that does not end holds a stopping service up for DrainTimeout; its
// event comes again.
func TestDrainHasALimit(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		b := &hand{answers: true}
		entered := make(chan struct{})
		l := event.NewListener(db, "back")
		event.Handle(l, func(ctx context.Context, _ *database.Tx, m *event.Message[ping]) error {
			close(entered)
			<-ctx.Done()
			return ctx.Err()
		})
		config := quick
		config.HandlerTimeout, config.DrainTimeout = time.Hour, 50*time.Millisecond
		stop := run(t, event.NewClient(config, event.NewOutbox(db, "back"), l, event.Telemetry{}, b))
		acked := b.deliver(t, "pings", message{key: "a", seq: 1}.body(), false)
		receive(t, entered, "the handler")
		stop()
		select {
		case <-acked:
			t.Error("it is acknowledged")
		default:
		}
	})
}

// Handlers that are busy for long hold up deliveries, but not what replaces a
// lost connection: it is needed to send.
func TestBusyHandlersDoNotHoldUpTheNextSession(t *testing.T) {
	db := databasetest.Postgres(t, event.Migrations(), effects())
	config := quick
	config.Workers, config.MaxInFlight, config.Batch = 1, 1, 1
	entered, leave := make(chan struct{}), make(chan struct{})
	enter := sync.OnceFunc(func() { close(entered) })
	b := memory(t)
	o := event.NewOutbox(db, "front", ping{})
	c := event.NewClient(config, o, recorder(db, func(*event.Message[ping]) error {
		enter()
		<-leave
		return nil
	}), event.Telemetry{}, b)
	run(t, c)
	t.Cleanup(func() { close(leave) })
	publishPings(t, db, o, 1)
	receive(t, entered, "the handler")
	for i := range 4 {
		// The event that is not acknowledged comes again with each session.
		eventually(t, "a subscription", func() bool { return c.Ready()["subscription pings on memory"] == nil })
		b.Disconnect()
		sent := len(stored(t, b))
		publishPings(t, db, o, i+2)
		eventually(t, "an event sent over the next session", func() bool { return len(stored(t, b)) > sent })
	}
}

// The checks name the broker and every subscription, and say that the service
// can go on without them.
func TestReadyWithoutABroker(t *testing.T) {
	db := databasetest.SQLite(t, event.Migrations(), effects())
	b := &hand{refuse: errors.New("nobody there"), answers: true}
	o := event.NewOutbox(db, "front", ping{})
	l := recorder(db, nil)
	event.Handle(l, func(context.Context, *database.Tx, *event.Message[pong]) error { return nil })
	c := event.NewClient(quick, o, l, event.Telemetry{}, b)
	degraded := func() (names []string) {
		for name, err := range c.Ready() {
			if err == nil {
				continue
			}
			names = append(names, name)
			if d, ok := errors.AsType[interface {
				error
				Degraded() bool
			}](err); !ok || !d.Degraded() {
				t.Errorf("%s: %v does not say that the service can go on", name, err)
			}
		}
		slices.Sort(names)
		return names
	}
	all := []string{"broker hand", "subscription pings on hand", "subscription pongs on hand"}
	if got := slices.Sorted(maps.Keys(c.Ready())); !slices.Equal(got, all) {
		t.Errorf("the checks are %v, want %v", got, all)
	}
	if got := degraded(); !slices.Equal(got, all) {
		t.Errorf("before the start %v are not ready", got)
	}
	run(t, c)
	eventually(t, "some tries", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.connects > 1 })
	if got := degraded(); !slices.Equal(got, all) {
		t.Errorf("without a broker %v are not ready", got)
	}
	publish(t, db, o, ping{"a", 1}) // it waits in the outbox

	b.mu.Lock()
	b.refuse = nil
	b.mu.Unlock()
	eventually(t, "readiness", func() bool { return len(degraded()) == 0 })
	receive(t, b.current().published, "what waited")

	b.mu.Lock()
	b.refuse = errors.New("nobody there")
	s := b.session
	b.mu.Unlock()
	_ = s.Close()
	eventually(t, "the loss", func() bool { return len(degraded()) == 3 })
}

// away is a connector whose database can be away.
type away struct {
	driver.Connector
	is *atomic.Bool
}

func (a away) Connect(ctx context.Context) (driver.Conn, error) {
	if a.is.Load() {
		return nil, driver.ErrBadConn
	}
	return a.Connector.Connect(ctx)
}

// A client can be started before its database answers, and is there when it does.
func TestDatabaseDownAtStart(t *testing.T) {
	onBothURLs(t, func(t *testing.T, url string) {
		prepared, _ := openSpied(t, url)
		down := new(atomic.Bool)
		down.Store(true)
		db, err := database.New(database.Config{URL: url, Wrap: func(c driver.Connector) driver.Connector { return away{c, down} }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		b := &hand{}
		run(t, event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, nil), event.Telemetry{}, b))
		if b.current() != nil {
			t.Error("there is a session before the group is on record")
		}
		down.Store(false)
		receive(t, b.deliver(t, "pings", message{key: "a", seq: 1}.body(), false), "an acknowledgement")
		if got := applied(t, prepared, "a"); !slices.Equal(got, upTo(1)) {
			t.Errorf("applied %v", got)
		}
	})
}

func TestDescribe(t *testing.T) {
	db := databasetest.SQLite(t)
	l := event.NewListener(db, "back")
	event.Handle(l, func(context.Context, *database.Tx, *event.Message[ping]) error { return nil })
	event.Ignore[novel](l)
	c := event.NewClient(event.Config{}, event.NewOutbox(db, "back", pong{}, measured{}), l, event.Telemetry{}, &hand{})
	b, err := json.Marshal(c.Describe())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string][]struct {
		Stream, Type, Group string
		Schema              struct {
			Properties map[string]any
		}
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, what := range []string{"publishes", "listens"} {
		for _, d := range got[what] {
			lines = append(lines, strings.Join(append([]string{what, d.Stream, d.Type, d.Group}, slices.Sorted(maps.Keys(d.Schema.Properties))...), " "))
		}
	}
	want := []string{"publishes pings measured  key text value", "publishes pongs pong  key value", "listens pings ping back key value"}
	if !slices.Equal(lines, want) {
		t.Errorf("described %q, want %q", lines, want)
	}
}

func TestMetrics(t *testing.T) {
	db := databasetest.SQLite(t, event.Migrations(), effects())
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	b := &hand{answers: true}
	o := event.NewOutbox(db, "back", pong{})
	run(t, event.NewClient(quick, o, recorder(db, func(m *event.Message[ping]) error {
		if m.Key == "dead" {
			return event.Dead(errors.New("poison"))
		}
		return nil
	}), event.Telemetry{Meter: provider}, b))
	publish(t, db, o, pong{"a", 1})
	for _, m := range []message{{key: "a", seq: 1}, {key: "a", seq: 1}, {key: "a", seq: 3}, {key: "a", seq: 2}, {key: "dead", seq: 1}} {
		receive(t, b.deliver(t, "pings", m.body(), false), "an acknowledgement")
	}
	receive(t, b.deliver(t, "pings", []byte("no event"), false), "an acknowledgement")
	eventually(t, "the mark", func() bool { return count(t.Context(), db, "event_outbox WHERE sent_at IS NULL") == 0 })
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	sums, gauges := map[string]int64{}, map[string]float64{}
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					sums[m.Name] += p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					sums[m.Name] += int64(p.Count)
				}
			case metricdata.Histogram[int64]:
				for _, p := range data.DataPoints {
					sums[m.Name] += int64(p.Count)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					gauges[m.Name] += float64(p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					gauges[m.Name] += p.Value
				}
			}
		}
	}
	for name, want := range map[string]int64{
		"messaging.client.sent.messages": 1, "messaging.client.consumed.messages": 6,
		"turnstile.event.handled": 3, "turnstile.event.failures": 1,
		"turnstile.event.ledger":              5, // a duplicate; one parked and released; the dead one parked; one malformed
		"messaging.client.operation.duration": 1, "turnstile.event.relay.batch": 1,
		"messaging.process.duration": 5, "turnstile.event.commit_to_effect": 3, // the dead one was tried in its batch and by itself
	} {
		if got, ok := sums[name]; !ok || got != want {
			t.Errorf("%s is %d (there: %v), want %d", name, got, ok, want)
		}
	}
	for name, want := range map[string]float64{
		"turnstile.event.outbox.depth": 0, "turnstile.event.outbox.age": 0, "turnstile.event.broker.missing": 0,
		"turnstile.event.parked": 1, "turnstile.event.letters": 1,
	} {
		if got, ok := gauges[name]; !ok || got != want {
			t.Errorf("%s is %v (there: %v), want %v", name, got, ok, want)
		}
	}
	// People find them all in the documentation, and no other of events.
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, line := range regexp.MustCompile("(?m)^\\| `([a-z._]+)` \\| (?:counter|gauge|histogram)").FindAllSubmatch(text, -1) {
		if !strings.HasPrefix(string(line[1]), "turnstile.http.") { // those are of the package web
			documented = append(documented, string(line[1]))
		}
	}
	there := slices.Concat(slices.Collect(maps.Keys(sums)), slices.Collect(maps.Keys(gauges)))
	slices.Sort(documented)
	slices.Sort(there)
	if !slices.Equal(documented, there) {
		t.Errorf("docs/metrics.md tells of %v\nthere are %v", documented, there)
	}
	for _, name := range []string{"turnstile.event.parked.age", "turnstile.event.lag"} {
		if gauges[name] <= 0 || gauges[name] > patience.Seconds() {
			t.Errorf("%s is %v: an event is dead since just now", name, gauges[name])
		}
	}
}

// The age of what is in flight is that of the oldest event which this process is
// at, and not of what is parked: an autoscaler follows it.
func TestInFlightAge(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		reader := metric.NewManualReader()
		provider := metric.NewMeterProvider(metric.WithReader(reader))
		defer func() { _ = provider.Shutdown(context.Background()) }()
		age := func() float64 {
			t.Helper()
			var all metricdata.ResourceMetrics
			_ = reader.Collect(t.Context(), &all) // the database may be at the handler's transaction
			for _, s := range all.ScopeMetrics {
				for _, m := range s.Metrics {
					if m.Name == "turnstile.event.in_flight.age" {
						return m.Data.(metricdata.Gauge[float64]).DataPoints[0].Value
					}
				}
			}
			t.Fatal("the age of what is in flight is not measured")
			return 0
		}
		o := event.NewOutbox(db, "back", ping{})
		outcomes := make(chan error)
		defer close(outcomes)
		run(t, event.NewClient(event.Config{HandlerTimeout: time.Hour}, o, recorder(db, func(*event.Message[ping]) error { return <-outcomes }),
			event.Telemetry{Meter: provider}, memory(t)))
		if got := age(); got != 0 {
			t.Errorf("without an event it is %v", got)
		}
		publishPings(t, db, o, 1)
		time.Sleep(10 * time.Minute)
		if got := age(); got < 590 || got > 610 {
			t.Errorf("10 minutes into the handler it is %v", got)
		}
		outcomes <- event.Dead(errors.New("poison")) // in its batch
		outcomes <- event.Dead(errors.New("poison")) // by itself
		time.Sleep(time.Minute)
		if got := age(); got != 0 {
			t.Errorf("when the event is dead it is %v", got)
		}
	})
}

// Each broker is measured by its own answers, however long another takes.
func TestBrokersAreMeasuredApart(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		reader := metric.NewManualReader()
		provider := metric.NewMeterProvider(metric.WithReader(reader))
		defer func() { _ = provider.Shutdown(context.Background()) }()
		swift, slow := memory(t), memory(t)
		slow.SetFaults(eventtest.Faults{MaxDelay: time.Hour})
		o := event.NewOutbox(db, "front", ping{})
		run(t, event.NewClient(quick, o, nil, event.Telemetry{Meter: provider}, eventtest.Named("swift", swift), eventtest.Named("slow", slow)))
		time.Sleep(time.Second)
		publishPings(t, db, o, 1)
		time.Sleep(2 * time.Hour)
		var all metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		took := map[string]time.Duration{}
		for _, s := range all.ScopeMetrics {
			for _, m := range s.Metrics {
				if m.Name != "messaging.client.operation.duration" {
					continue
				}
				for _, p := range m.Data.(metricdata.Histogram[float64]).DataPoints {
					broker, _ := p.Attributes.Value("messaging.system")
					took[broker.AsString()] += time.Duration(p.Sum * float64(time.Second))
				}
			}
		}
		if took["swift"] > time.Second || took["slow"] < time.Minute {
			t.Errorf("the brokers took %v", took)
		}
	})
}

// Nothing that a client started outlives Run, however its sessions ended.
func TestClientLeavesNoGoroutine(t *testing.T) {
	db := databasetest.SQLite(t, event.Migrations(), effects())
	before := goleak.IgnoreCurrent()
	b := &hand{answers: true}
	stop := run(t, event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, nil), event.Telemetry{}, b))
	receive(t, b.deliver(t, "pings", message{key: "a", seq: 1}.body(), false), "an acknowledgement")
	first := b.current()
	_ = first.Close()
	eventually(t, "a new session", func() bool { return b.current() != first })
	receive(t, b.deliver(t, "pings", message{key: "a", seq: 2}.body(), false), "an acknowledgement")
	stop()
	goleak.VerifyNone(t, before)
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
