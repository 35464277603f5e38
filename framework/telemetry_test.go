package framework_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/web"
)

// inspect runs a service and returns it when it is ready.
func inspect(t *testing.T, environ ...string) (*framework.Service, *service, map[string]string) {
	t.Helper()
	var built *framework.Service
	s := run(t, func(fs *framework.Service) error {
		built = fs
		fs.Add("part", bare(waits))
		return nil
	}, environ...)
	addresses := s.ready()
	return built, s, addresses
}

func TestLogLinesCarryTheTrace(t *testing.T) {
	t.Parallel()
	s, running, _ := inspect(t)
	ctx, span := s.Tracer.Tracer("test").Start(context.Background(), "request")
	defer span.End()
	if !span.SpanContext().IsValid() {
		t.Error("a service without an exporter makes no trace ids")
	}
	if span.IsRecording() {
		t.Error("a service without an exporter records spans")
	}
	s.Log.With("order", "o1").InfoContext(ctx, "order created", "took", 1500*time.Microsecond)
	s.Log.Info("no trace")

	line := running.log.entries(t, "order created")[0]
	if line["trace_id"] != span.SpanContext().TraceID().String() || line["span_id"] != span.SpanContext().SpanID().String() ||
		line["order"] != "o1" || line["took"] != "1.5ms" || line["service"] != "test" || line["level"] != "INFO" {
		t.Errorf("logged %v", line)
	}
	if line := running.log.entries(t, "no trace")[0]; line["trace_id"] != nil {
		t.Errorf("logged %v, want no trace", line)
	}
}

func TestASampledTraceStaysSampled(t *testing.T) {
	t.Parallel()
	s, _, _ := inspect(t)
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, Remote: true,
	})
	_, span := s.Tracer.Tracer("test").Start(trace.ContextWithRemoteSpanContext(t.Context(), parent), "request")
	defer span.End()
	if got := span.SpanContext(); got.TraceID() != parent.TraceID() || !got.IsSampled() {
		t.Errorf("the trace goes on as %v, sampled %v", got.TraceID(), got.IsSampled())
	}
}

func TestLogLevelMayChangeWhileRunning(t *testing.T) {
	t.Parallel()
	s, running, _ := inspect(t, "LOG_LEVEL=warn")
	s.Log.Info("quiet")
	s.LogLevel.Set(slog.LevelDebug)
	s.Log.Debug("loud")
	if quiet, loud := running.log.entries(t, "quiet"), running.log.entries(t, "loud"); len(quiet) != 0 || len(loud) != 1 {
		t.Errorf("logged %v and %v", quiet, loud)
	}
}

func TestTextLog(t *testing.T) {
	t.Parallel()
	s, running, _ := inspect(t, "LOG_FORMAT=text")
	s.Log.Warn("broker is away", "attempt", 2)
	if log := running.log.String(); !strings.Contains(log, "WRN broker is away attempt=2\n") {
		t.Errorf("logged %s", log)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s, _, addresses := inspect(t)
	counter, err := s.Meter.Meter("test").Int64Counter("events.published")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	_, metrics := get(t, "http://"+addresses["admin"]+"/metrics")
	for _, want := range []string{"\nevents_published_total 3\n", "\ngo_goroutines ", "\nprocess_resident_memory_bytes ", `service_name="test"`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics has no %q", want)
		}
	}
	if otel.GetMeterProvider() == s.Meter || otel.GetTracerProvider() == s.Tracer {
		t.Error("the providers are global")
	}
}

// collector takes what is exported over OTLP/HTTP.
type collector struct {
	*httptest.Server
	received chan string // path and body
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{received: make(chan string, 100)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		c.received <- r.URL.Path + " " + string(body) // protobuf: names and values of strings are legible
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

func TestTelemetryIsSentBeforeTheServiceEnds(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s, running, _ := inspect(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL+"/base", "POD_NAME=test-7")
	counter, err := s.Meter.Meter("test").Int64Counter("events.published")
	if err != nil {
		t.Fatal(err)
	}
	_, span := s.Tracer.Tracer("test").Start(context.Background(), "checkout")
	counter.Add(t.Context(), 1)
	span.End()
	running.signal()
	if err := running.ended(); err != nil {
		t.Fatal(err)
	}
	c.Close() // no request is in flight any more
	close(c.received)
	got := map[string]string{}
	for request := range c.received {
		path, body, _ := strings.Cut(request, " ")
		got[path] += body
	}
	for path, name := range map[string]string{"/base/v1/traces": "checkout", "/base/v1/metrics": "events.published"} {
		for _, want := range []string{name, "service.name", "test", "service.instance.id", "test-7"} {
			if !strings.Contains(got[path], want) {
				t.Errorf("%s received no %s: %q", path, want, got[path])
			}
		}
	}
}

func TestTracesAloneGoToTheirOwnEndpoint(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s, running, _ := inspect(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+c.URL+"/spans")
	_, span := s.Tracer.Tracer("test").Start(context.Background(), "checkout")
	span.End()
	running.signal()
	if err := running.ended(); err != nil {
		t.Fatal(err)
	}
	if request := <-c.received; !strings.HasPrefix(request, "/spans ") || !strings.Contains(request, "checkout") {
		t.Errorf("received %q", request)
	}
	select {
	case request := <-c.received:
		t.Errorf("received %q, too", request)
	default:
	}
}

func TestACollectorThatRefusesIsLoggedAndHarmless(t *testing.T) {
	t.Parallel()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "who are you", http.StatusUnauthorized)
	}))
	t.Cleanup(refusing.Close)
	s, running, _ := inspect(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+refusing.URL)
	_, span := s.Tracer.Tracer("test").Start(context.Background(), "checkout")
	span.End()
	running.signal()
	if err := running.ended(); err != nil {
		t.Errorf("Run = %v", err)
	}
	signals := map[string]bool{}
	for _, line := range running.log.entries(t, "telemetry is not delivered") {
		signals[fmt.Sprint(line["signal"])] = true
	}
	if !signals["traces"] || !signals["metrics"] {
		t.Errorf("logged %v, want traces and metrics", signals)
	}
}

// A client can neither add time series nor have traces lost by what it makes up.
func TestStrangersDoNotHarmTelemetry(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s, running, addresses := inspect(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+c.URL)
	api := web.NewServer("hats", web.Config{}, s.Log, s.Tracer, s.Meter)
	for i, path := range []string{"/nowhere", "/a%ff%fe"} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = fmt.Sprintf("made-up-%d.example.com:%d", i, 1000+i)
		r.Header.Set("User-Agent", "\xff")
		api.ServeHTTP(httptest.NewRecorder(), r)
	}
	_, metrics := get(t, "http://"+addresses["admin"]+"/metrics")
	if !strings.Contains(metrics, "http_server_request_duration") || strings.Contains(metrics, "made-up") || strings.Contains(metrics, "server_port") {
		t.Errorf("/metrics has what a client asked for: %s", metrics)
	}
	if strings.Contains(metrics, "body_size") {
		t.Errorf("/metrics has how long bodies are, which nobody asked for: %s", metrics)
	}
	running.signal()
	if err := running.ended(); err != nil {
		t.Error(err)
	}
	if got := <-c.received; !strings.Contains(got, "/nowhere") || !strings.Contains(got, "/a�") {
		t.Errorf("exported %q", got)
	}
}
