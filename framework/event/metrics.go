package event

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Telemetry is where a Client reports to. The zero value reports nowhere.
type Telemetry struct {
	Log    *slog.Logger
	Tracer trace.TracerProvider
	Meter  metric.MeterProvider
}

const scope = "github.com/turnstile-go/turnstile/framework/event"

// metrics follows OpenTelemetry's messaging conventions where they have a name.
type metrics struct {
	tracer trace.Tracer

	sentMessages     metric.Int64Counter
	sendDuration     metric.Float64Histogram
	batchSize        metric.Int64Histogram
	consumedMessages metric.Int64Counter
	handled          metric.Int64Counter
	processDuration  metric.Float64Histogram
	latency          metric.Float64Histogram
	outcomes         metric.Int64Counter
	failures         metric.Int64Counter
}

func newMetrics(t Telemetry) (*metrics, error) {
	if t.Tracer == nil {
		t.Tracer = tracenoop.NewTracerProvider()
	}
	if t.Meter == nil {
		t.Meter = noop.NewMeterProvider()
	}
	meter := t.Meter.Meter(scope)
	m := &metrics{tracer: t.Tracer.Tracer(scope)}
	seconds := metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600)
	var err error
	for _, c := range []struct {
		into              *metric.Int64Counter
		name, unit, about string
	}{
		{&m.sentMessages, "messaging.client.sent.messages", "{message}", "Events that the relay sent, by whether the broker acknowledged them."},
		{&m.consumedMessages, "messaging.client.consumed.messages", "{message}", "Messages that the broker delivered."},
		{&m.handled, "turnstile.event.handled", "{event}", "Events whose effect is committed."},
		{&m.outcomes, "turnstile.event.ledger", "{event}", "What the ledger did besides handling: duplicate, parked, released, adopted, gap, fork, malformed."},
		{&m.failures, "turnstile.event.failures", "{attempt}", "Attempts of handlers that failed; dead says that it was the last."},
	} {
		if *c.into, err = meter.Int64Counter(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.about)); err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
	}
	for _, h := range []struct {
		into        *metric.Float64Histogram
		name, about string
	}{
		{&m.sendDuration, "messaging.client.operation.duration", "How long a broker took to acknowledge a batch of the relay."},
		{&m.processDuration, "messaging.process.duration", "How long a handler ran."},
		{&m.latency, "turnstile.event.commit_to_effect", "From an event's commit to the commit of its effect."},
	} {
		if *h.into, err = meter.Float64Histogram(h.name, metric.WithUnit("s"), metric.WithDescription(h.about), seconds); err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
	}
	if m.batchSize, err = meter.Int64Histogram("turnstile.event.relay.batch", metric.WithUnit("{event}"), metric.WithDescription("Events in a batch of the relay."),
		metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 20, 50, 100, 200, 500)); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	return m, nil
}

// gauges are what is measured whenever somebody asks.
type gauges struct {
	outbox   *Outbox
	listener *Listener // may be nil

	depth, parked, letters                     metric.Int64ObservableGauge
	age, inFlightAge, parkedAge, lag, brokerAt metric.Float64ObservableGauge
}

// watch reports what waits, in the database and in this process.
func watch(t Telemetry, o *Outbox, l *Listener) error {
	if t.Meter == nil {
		return nil
	}
	meter := t.Meter.Meter(scope)
	g := &gauges{outbox: o, listener: l}
	var all []metric.Observable
	for _, c := range []struct {
		into              *metric.Int64ObservableGauge
		name, unit, about string
	}{
		{&g.depth, "turnstile.event.outbox.depth", "{event}", "Committed events that are not sent yet."},
		{&g.parked, "turnstile.event.parked", "{event}", "Events that wait in a listener group: early, retry or dead."},
		{&g.letters, "turnstile.event.letters", "{letter}", "What a person should look at besides the dead: gap, fork, malformed."},
	} {
		var err error
		if *c.into, err = meter.Int64ObservableGauge(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.about)); err != nil {
			return fmt.Errorf("event: %w", err)
		}
		all = append(all, *c.into)
	}
	for _, c := range []struct {
		into        *metric.Float64ObservableGauge
		name, about string
	}{
		{&g.age, "turnstile.event.outbox.age", "How long the oldest unsent event has waited."},
		{&g.inFlightAge, "turnstile.event.in_flight.age", "How long ago the oldest event was committed that this process is at; 0 if it is at none."},
		{&g.parkedAge, "turnstile.event.parked.age", "How long the oldest event of a state has been parked."},
		{&g.lag, "turnstile.event.lag", "How far a group is behind a stream: the age of the oldest event that was delivered and has not taken effect."},
		{&g.brokerAt, "turnstile.event.broker.missing", "From how long ago on a broker may lack events that were sent; 0 if it lacks none."},
	} {
		var err error
		if *c.into, err = meter.Float64ObservableGauge(c.name, metric.WithUnit("s"), metric.WithDescription(c.about)); err != nil {
			return fmt.Errorf("event: %w", err)
		}
		all = append(all, *c.into)
	}
	if _, err := meter.RegisterCallback(g.observe, all...); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	return nil
}

func (g *gauges) observe(ctx context.Context, obs metric.Observer) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	inFlight := g.observeInFlight(obs)
	if err := errors.Join(g.observeOutbox(ctx, obs), g.observeListeners(ctx, obs, inFlight)); err != nil {
		return fmt.Errorf("event: measure the ledger: %w", err)
	}
	return nil
}

func groupName(name string) attribute.KeyValue {
	return attribute.String("messaging.consumer.group.name", name)
}

func streamName(name string) attribute.KeyValue {
	return attribute.String("messaging.destination.name", name)
}

// observeInFlight reports what this process is at, which no database is needed
// for, and returns it in seconds by stream. What is parked does not count: that
// waits for a time or a person, and more processes would not help it.
func (g *gauges) observeInFlight(obs metric.Observer) map[string]float64 {
	ages := map[string]float64{}
	if g.listener == nil {
		return ages
	}
	for _, s := range g.listener.streams() {
		ages[s] = 0
	}
	for s, at := range g.listener.workers.oldest() {
		ages[s] = max(0, time.Since(at).Seconds())
	}
	for s, seconds := range ages {
		obs.ObserveFloat64(g.inFlightAge, seconds, metric.WithAttributes(groupName(g.listener.group), streamName(s)))
	}
	return ages
}

func (g *gauges) observeOutbox(ctx context.Context, obs metric.Observer) error {
	o := g.outbox
	var n int64
	var oldest sql.NullInt64
	if err := o.db.QueryRowContext(ctx, o.sql.depth).Scan(&n, &oldest); err != nil {
		return err
	}
	obs.ObserveInt64(g.depth, n)
	obs.ObserveFloat64(g.age, ageOf(oldest))
	missing, err := database.QueryAll(ctx, o.db, func(row database.Row) (m struct {
		broker string
		since  sql.NullInt64
	}, err error,
	) {
		err = row.Scan(&m.broker, &m.since)
		return m, err
	}, o.sql.brokers)
	for _, m := range missing {
		obs.ObserveFloat64(g.brokerAt, ageOf(m.since), metric.WithAttributes(attribute.String("messaging.system", m.broker)))
	}
	return err
}

func (g *gauges) observeListeners(ctx context.Context, obs metric.Observer, lag map[string]float64) error {
	type count struct {
		group, stream, what string
		n                   int64
		oldest              sql.NullInt64
	}
	scan := func(row database.Row) (c count, err error) {
		err = row.Scan(&c.group, &c.stream, &c.what, &c.n, &c.oldest)
		return c, err
	}
	parked, err := database.QueryAll(ctx, g.outbox.db, scan, g.outbox.sql.countParked)
	if err != nil {
		return err
	}
	for _, c := range parked {
		set := metric.WithAttributes(groupName(c.group), streamName(c.stream), attribute.String("state", c.what))
		age := ageOf(c.oldest)
		obs.ObserveInt64(g.parked, c.n, set)
		obs.ObserveFloat64(g.parkedAge, age, set)
		if g.listener != nil && c.group == g.listener.group {
			lag[c.stream] = max(lag[c.stream], age)
		}
	}
	for s, seconds := range lag {
		obs.ObserveFloat64(g.lag, seconds, metric.WithAttributes(groupName(g.listener.group), streamName(s)))
	}
	letters, err := database.QueryAll(ctx, g.outbox.db, scan, g.outbox.sql.countLetters)
	if err != nil {
		return err
	}
	for _, c := range letters {
		obs.ObserveInt64(g.letters, c.n, metric.WithAttributes(groupName(c.group), streamName(c.stream), attribute.String("kind", c.what)))
	}
	return nil
}

// ageOf returns for how many seconds something has been so; 0 if it is not.
func ageOf(since sql.NullInt64) float64 {
	if !since.Valid {
		return 0
	}
	return max(0, time.Since(fromMicros(since.Int64)).Seconds())
}

func (m *metrics) sent(ctx context.Context, broker string, rows []row, acked int, took time.Duration) {
	system := attribute.String("messaging.system", broker)
	count := func(n int, outcome string) {
		if n > 0 {
			m.sentMessages.Add(ctx, int64(n), metric.WithAttributes(system, attribute.String("outcome", outcome)))
		}
	}
	count(acked, "acknowledged")
	count(len(rows)-acked, "failed")
	m.sendDuration.Record(ctx, took.Seconds(), metric.WithAttributes(system, attribute.String("messaging.operation.name", "send")))
	m.batchSize.Record(ctx, int64(len(rows)), metric.WithAttributes(system))
}

func (m *metrics) delivered(ctx context.Context, broker, group, stream string, again bool) {
	m.consumedMessages.Add(ctx, 1, metric.WithAttributes(
		attribute.String("messaging.system", broker),
		attribute.String("messaging.destination.name", stream),
		attribute.String("messaging.consumer.group.name", group),
		attribute.Bool("redelivered", again)))
}

func (m *metrics) processed(ctx context.Context, group string, e *envelope, start time.Time, err error) {
	set := []attribute.KeyValue{
		attribute.String("messaging.operation.name", "process"),
		attribute.String("messaging.destination.name", e.Stream),
		attribute.String("messaging.consumer.group.name", group),
		attribute.String("type", e.Type),
	}
	if err != nil {
		set = append(set, attribute.String("error.type", "_OTHER"))
	}
	m.processDuration.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(set...))
}

func (m *metrics) turn(ctx context.Context, group string, c counts) {
	for _, a := range c.applied {
		set := metric.WithAttributes(
			attribute.String("messaging.destination.name", a.stream),
			attribute.String("messaging.consumer.group.name", group),
			attribute.String("type", a.typ))
		m.handled.Add(ctx, 1, set)
		m.latency.Record(ctx, time.Since(a.committed).Seconds(), set)
	}
	for outcome, n := range map[string]int64{
		"duplicate": c.duplicates, "parked": c.parked, "released": c.released, "adopted": c.adopted,
		letterGap: c.gaps, letterFork: c.forks, letterMalformed: c.malformed,
	} {
		if n > 0 {
			m.outcomes.Add(ctx, n, metric.WithAttributes(
				attribute.String("messaging.consumer.group.name", group), attribute.String("outcome", outcome)))
		}
	}
}

func (m *metrics) failed(ctx context.Context, group string, e *envelope, dead bool) {
	m.failures.Add(ctx, 1, metric.WithAttributes(
		attribute.String("messaging.destination.name", e.Stream),
		attribute.String("messaging.consumer.group.name", group),
		attribute.String("type", e.Type), attribute.Bool("dead", dead)))
}

func spanAttributes(group string, e *envelope, attempt int) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("messaging.destination.name", e.Stream),
		attribute.String("messaging.consumer.group.name", group),
		attribute.String("messaging.message.id", e.ID),
		attribute.String("turnstile.event.type", e.Type),
		attribute.String("turnstile.event.key", e.Key),
		attribute.Int64("turnstile.event.sequence", e.Sequence),
		attribute.Int("turnstile.event.attempt", attempt),
	}
}
