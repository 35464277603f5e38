// Package logs builds the logger of a service: JSON for machines, coloured text for people, and the trace
// of the context on every line.
package logs

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"
)

// New returns a logger that writes to w what is at or above level, as text or as JSON, and hands on what is a notice.
// Lines logged with a context that carries a trace have trace_id and span_id, and what [With] was given.
func New(w io.Writer, text bool, level slog.Leveler, notices *Notices) *slog.Logger {
	var h slog.Handler
	if text {
		h = tint.NewTextHandler(w, &tint.Options{
			Level: level, TimeFormat: "15:04:05.000", NoColor: !IsTerminal(w),
		})
	} else {
		h = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: readable})
	}
	return slog.New(noticed{traced{h}, notices})
}

// IsTerminal reports whether a person reads what is written to w.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// readable writes durations as 1.5s, which slog's JSON would show as nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().Round(time.Microsecond).String())
	}
	return a
}

type attrKey struct{}

// With returns a context in which attr is on every line that is logged.
func With(ctx context.Context, attr slog.Attr) context.Context {
	return context.WithValue(ctx, attrKey{}, attr)
}

// traced adds the trace of the context and what it is given by With. Behind WithGroup these attributes are in the group.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if attr, ok := ctx.Value(attrKey{}).(slog.Attr); ok {
		r = r.Clone()
		r.AddAttrs(attr)
	}
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }

func (h traced) WithGroup(name string) slog.Handler { return traced{h.Handler.WithGroup(name)} }
