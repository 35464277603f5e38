package web

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/turnstile-go/turnstile/framework/internal/logs"
)

const requestID = "X-Request-Id"

// identified returns the context for r, made of ctx, with the id that the client has sent, or else a new one: it is in the
// answer, in the trace, and in all that is logged meanwhile.
func identified(ctx context.Context, w http.ResponseWriter, r *http.Request) context.Context {
	id := r.Header.Get(requestID)
	if !isRequestID(id) {
		id = uuid.NewString()
	}
	w.Header().Set(requestID, id)
	trace.SpanFromContext(ctx).SetAttributes(attribute.StringSlice("http.response.header.x-request-id", []string{id}))
	return logs.With(ctx, slog.String("request_id", id))
}

// isRequestID reports whether id is taken over from a client: nothing is that means something to a shell, a page or a terminal.
func isRequestID(id string) bool {
	return len(id) > 0 && len(id) <= 128 && !strings.ContainsFunc(id, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._:/+=@-", c)
	})
}
