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
	consumedMessages metric.Int64Counter
	handled          metric.Int64Counter
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
	if m.sendDuration, err = meter.Float64Histogram("messaging.client.operation.duration", metric.WithUnit("s"), metric.WithDescription("How long the relay took for a batch."), seconds); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	if m.latency, err = meter.Float64Histogram("turnstile.event.commit_to_effect", metric.WithUnit("s"), metric.WithDescription("From an event's commit to the commit of its effect."), seconds); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	return m, nil
}

// watch reports, whenever somebody asks, what waits in the database.
func watch(t Telemetry, o *Outbox) error {
	if t.Meter == nil {
		return nil
	}
	meter := t.Meter.Meter(scope)
	depth, err1 := meter.Int64ObservableGauge("turnstile.event.outbox.depth", metric.WithUnit("{event}"), metric.WithDescription("Committed events that are not sent yet."))
	age, err2 := meter.Float64ObservableGauge("turnstile.event.outbox.age", metric.WithUnit("s"), metric.WithDescription("How long the oldest of them has waited."))
	parked, err3 := meter.Int64ObservableGauge("turnstile.event.parked", metric.WithUnit("{event}"), metric.WithDescription("Events that wait in a listener group: early, retry or dead."))
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	_, err := meter.RegisterCallback(func(ctx context.Context, obs metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		var n int64
		var oldest sql.NullInt64
		if err := o.db.QueryRowContext(ctx, o.sql.depth).Scan(&n, &oldest); err != nil {
			return fmt.Errorf("event: measure the outbox: %w", err)
		}
		obs.ObserveInt64(depth, n)
		if oldest.Valid {
			obs.ObserveFloat64(age, time.Since(fromMicros(oldest.Int64)).Seconds())
		} else {
			obs.ObserveFloat64(age, 0)
		}
		rows, err := o.db.QueryContext(ctx, o.sql.parkedByState)
		if err != nil {
			return fmt.Errorf("event: measure what is parked: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var group, state string
			if err := rows.Scan(&group, &state, &n); err != nil {
				return fmt.Errorf("event: measure what is parked: %w", err)
			}
			obs.ObserveInt64(parked, n, metric.WithAttributes(
				attribute.String("messaging.consumer.group.name", group), attribute.String("state", state)))
		}
		return rows.Err()
	}, depth, age, parked)
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	return nil
}

func (m *metrics) sent(ctx context.Context, rows []row, acked int, start time.Time) {
	count := func(n int, outcome string) {
		if n > 0 {
			m.sentMessages.Add(ctx, int64(n), metric.WithAttributes(attribute.String("outcome", outcome)))
		}
	}
	count(acked, "acknowledged")
	count(len(rows)-acked, "failed")
	m.sendDuration.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(attribute.String("messaging.operation.name", "send")))
}

func (m *metrics) delivered(ctx context.Context, group, stream string, again bool) {
	m.consumedMessages.Add(ctx, 1, metric.WithAttributes(
		attribute.String("messaging.destination.name", stream),
		attribute.String("messaging.consumer.group.name", group),
		attribute.Bool("redelivered", again)))
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
