// Package telemetry builds a service's OpenTelemetry providers. It sets nothing global: whoever is to
// trace or to measure is handed a provider.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Config tells who is measured and where to the measurements go.
type Config struct {
	Service, Version, Instance string
	// Attributes are further ones of the resource, by name; empty ones are left out.
	Attributes map[string]string
	// TracesURL and MetricsURL are the full OTLP/HTTP addresses; empty means that nothing is exported.
	// Headers, timeouts, sampling and intervals are the SDK's, from the standard OTEL_* variables.
	TracesURL, MetricsURL string
	Log                   *slog.Logger
}

// Telemetry is the providers of one service. [Telemetry.Shutdown] flushes and stops them.
type Telemetry struct {
	Tracer trace.TracerProvider
	Meter  metric.MeterProvider

	registry *prometheus.Registry
	traces   *sdktrace.TracerProvider
	metrics  *sdkmetric.MeterProvider
}

// New builds the providers. It does no I/O: an exporter connects when it first has something to send.
func New(ctx context.Context, c Config) (*Telemetry, error) {
	attributes := []attribute.KeyValue{
		attribute.String("service.name", c.Service),
		attribute.String("service.version", c.Version),
		attribute.String("service.instance.id", c.Instance),
	}
	for name, value := range c.Attributes {
		if value != "" {
			attributes = append(attributes, attribute.String(name, value))
		}
	}
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attributes...),
		resource.WithFromEnv(), // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win
	)
	if err != nil {
		return nil, fmt.Errorf("telemetry resource: %w", err)
	}
	t := &Telemetry{registry: prometheus.NewRegistry()}
	if err := t.traceTo(ctx, c, res); err != nil {
		return nil, err
	}
	if err := t.measureTo(ctx, c, res); err != nil {
		return nil, errors.Join(err, t.traces.Shutdown(ctx))
	}
	return t, nil
}

func (t *Telemetry) traceTo(ctx context.Context, c Config, res *resource.Resource) error {
	if c.TracesURL == "" {
		// Trace ids for logs and for the services after this one, and nothing recorded.
		t.traces = sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	} else {
		exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(c.TracesURL))
		if err != nil {
			return fmt.Errorf("trace exporter: %w", err)
		}
		t.traces = sdktrace.NewTracerProvider(
			sdktrace.WithBatcher(&spanExporter{SpanExporter: exporter, failures: failures{log: c.Log, what: "traces"}}),
			sdktrace.WithResource(res),
		)
	}
	t.Tracer = t.traces
	return nil
}

func (t *Telemetry) measureTo(ctx context.Context, c Config, res *resource.Resource) error {
	if err := errors.Join(
		t.registry.Register(collectors.NewGoCollector()),
		t.registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
	); err != nil {
		return fmt.Errorf("metrics of the process: %w", err)
	}
	scraped, err := otelprometheus.New(otelprometheus.WithRegisterer(t.registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return fmt.Errorf("prometheus exporter: %w", err)
	}
	// The address that a client asks for is whatever it writes there: each would be a time series more.
	asked := sdkmetric.NewView(sdkmetric.Instrument{Name: "http.server.request.duration"},
		sdkmetric.Stream{AttributeFilter: attribute.NewDenyKeysFilter("server.address", "server.port")})
	// How long bodies are costs every request more than it tells.
	sizes := sdkmetric.NewView(sdkmetric.Instrument{Name: "http.server.*.body.size"}, sdkmetric.Stream{Aggregation: sdkmetric.AggregationDrop{}})
	options := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(scraped), sdkmetric.WithView(asked, sizes)}
	if c.TracesURL == "" {
		options = append(options, sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter))
	}
	if c.MetricsURL != "" {
		exporter, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(c.MetricsURL))
		if err != nil {
			return fmt.Errorf("metric exporter: %w", err)
		}
		options = append(options, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(
			&metricExporter{Exporter: exporter, failures: failures{log: c.Log, what: "metrics"}})))
	}
	t.metrics = sdkmetric.NewMeterProvider(options...)
	t.Meter = t.metrics
	return nil
}

// Metrics serves what was measured in the Prometheus format.
func (t *Telemetry) Metrics() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{})
}

// Shutdown sends what has not been sent yet and stops, at the latest when ctx is done.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	return errors.Join(t.traces.Shutdown(ctx), t.metrics.Shutdown(ctx))
}

// failures logs that exporting fails, once a minute at most: a collector that is away must neither stop a
// service nor fill its log. The SDK would report to a handler that is global to the process.
type failures struct {
	log  *slog.Logger
	what string
	last atomic.Int64 // UnixNano of the last report
}

func (f *failures) report(ctx context.Context, err error) {
	if err == nil {
		return
	}
	now, last := time.Now().UnixNano(), f.last.Load()
	if now-last < int64(time.Minute) || !f.last.CompareAndSwap(last, now) {
		return
	}
	f.log.WarnContext(ctx, "telemetry is not delivered", "signal", f.what, "error", err)
}

type spanExporter struct {
	sdktrace.SpanExporter
	failures failures
}

func (e *spanExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	e.failures.report(ctx, e.SpanExporter.ExportSpans(ctx, legible(spans)))
	return nil
}

type metricExporter struct {
	sdkmetric.Exporter
	failures failures
}

func (e *metricExporter) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	e.failures.report(ctx, e.Exporter.Export(ctx, m))
	return nil
}
