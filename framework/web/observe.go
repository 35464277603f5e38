package web

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
)

// exchange is a request and what was answered so far. The request's context has it.
type exchange struct {
	http.ResponseWriter
	server *Server
	client Client
	status int
	bytes  int64
	route  string
}

type exchangeKey struct{}

// exchangeOf returns the exchange that ctx belongs to, nil if there is none.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && status >= 200 {
		x.begin(status)
	}
	x.ResponseWriter.WriteHeader(status)
}

// begin is called before the answer's header is written.
func (x *exchange) begin(status int) {
	x.status = status
	if x.server.draining.Load() {
		x.Header().Set("Connection", "close")
	}
}

func (x *exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.begin(http.StatusOK)
	}
	n, err := x.ResponseWriter.Write(b)
	x.bytes += int64(n)
	return n, err
}

// Unwrap serves http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// observe is the outermost layer: it bounds the request's time, survives panics and writes the request log.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		x := &exchange{ResponseWriter: w, server: s, client: s.client(r)}
		ctx := r.Context()
		if s.ending.Load() { // that no more comes from the client is our own doing: it waits for the answer
			ctx = context.WithoutCancel(ctx)
		}
		ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
		defer cancel()
		r = r.WithContext(identified(context.WithValue(ctx, exchangeKey{}, x), x, r))
		protect(x.Header(), x.client.TLS)

		defer func() {
			cut := false
			if v := recover(); v != nil {
				cut = x.recovered(r, v)
			}
			x.log(r, time.Since(start))
			if cut {
				panic(http.ErrAbortHandler) // the answer had begun: the connection's end is all that can still be said
			}
		}()
		next.ServeHTTP(x, r)
		if x.status == 0 {
			x.begin(http.StatusOK)
		}
	})
}

// recovered deals with a panic and reports whether the connection must be cut.
func (x *exchange) recovered(r *http.Request, v any) bool {
	if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this, too
		return true
	}
	ctx := r.Context()
	p := unforeseen(ctx)
	x.server.log.LogAttrs(ctx, slog.LevelError, "request panicked", slog.String("panic", fmt.Sprint(v)),
		slog.String("incident", p.TraceID), slog.String("stack", string(debug.Stack())))
	if x.status != 0 {
		return true
	}
	WriteProblem(x, r, p)
	return false
}

// log writes the request's line in the log.
func (x *exchange) log(r *http.Request, took time.Duration) {
	level := slog.LevelDebug
	switch {
	case x.status == http.StatusServiceUnavailable:
		level = slog.LevelWarn
	case x.status >= 500:
		level = slog.LevelError
	case x.status >= 400 && x.status != statusGone && x.status != http.StatusTooManyRequests: // whoever floods us does not flood the log
		level = slog.LevelInfo
	}
	if !x.server.log.Enabled(r.Context(), level) {
		return
	}
	x.server.log.LogAttrs(r.Context(), level, "request",
		slog.String("method", r.Method), slog.String("path", shortened(r.URL.Path)), slog.String("route", x.route),
		slog.Int("status", cmp.Or(x.status, http.StatusOK)), slog.Int64("bytes", x.bytes), slog.Duration("took", took),
		slog.String("client", x.client.Addr.String()))
}

// shortened is s as the log has it: nobody fills that with one request.
func shortened(s string) string {
	const enough = 500
	if len(s) > enough {
		s = strings.ToValidUTF8(s[:enough], "") + "…"
	}
	return s
}
