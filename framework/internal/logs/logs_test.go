package logs_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/turnstile-go/turnstile/framework/internal/logs"
)

func TestJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var level slog.LevelVar
	log := logs.New(&out, false, &level, new(logs.Notices))
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
	log.DebugContext(ctx, "not said")
	log.With("service", "orders").WithGroup("order").InfoContext(ctx, "created", "id", "o1", "took", 1500*time.Microsecond)

	var line struct {
		Msg, Level, Service string
		Order               map[string]string
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	want := map[string]string{"id": "o1", "took": "1.5ms", "trace_id": "01000000000000000000000000000000", "span_id": "0200000000000000"}
	if line.Msg != "created" || line.Level != "INFO" || line.Service != "orders" || len(line.Order) != len(want) {
		t.Errorf("logged %s", out.String())
	}
	for name, value := range want {
		if line.Order[name] != value {
			t.Errorf("%s is logged as %q, want %q", name, line.Order[name], value)
		}
	}
}

func TestTextHasColoursInATerminalOnly(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logs.New(&out, true, slog.LevelInfo, new(logs.Notices)).Error("refused", "attempt", 2)
	if got := out.String(); !strings.HasSuffix(got, " ERR refused attempt=2\n") || strings.Contains(got, "\x1b") {
		t.Errorf("logged %q", got)
	}
	file, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if logs.IsTerminal(&out) || logs.IsTerminal(file) {
		t.Error("a buffer or a file is a terminal")
	}
}
