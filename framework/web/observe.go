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

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	server *Server
	status int
	bytes  int64
	route  string
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// begin is called before the answer's header is written.
func (w *recorder) begin(status int) {
	w.status = status
	if w.server.draining.Load() {
		w.Header().Set("Connection", "close")
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.begin(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Unwrap serves http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type recorderKey struct{}

// observe is the outermost layer: it bounds the request's time, survives panics and writes the request log.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w, server: s}
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.RequestTimeout)
		defer cancel()
		client := s.client(r)
		ctx = context.WithValue(ctx, serverKey{}, s)
		ctx = context.WithValue(ctx, clientKey{}, client)
		ctx = context.WithValue(ctx, recorderKey{}, rec)
		r = r.WithContext(ctx)
		r = identified(rec, r)
		protect(rec.Header(), client.TLS)

		defer func() {
			cut := false
			if v := recover(); v != nil {
				cut = s.recovered(rec, r, v)
			}
			s.logRequest(rec, r, client, time.Since(start))
			if cut {
				panic(http.ErrAbortHandler) // the answer had begun: the connection's end is all that can still be said
			}
		}()
		next.ServeHTTP(rec, r)
		if rec.status == 0 {
			rec.begin(http.StatusOK)
		}
	})
}

// recovered deals with a panic and reports whether the connection must be cut.
func (s *Server) recovered(w *recorder, r *http.Request, v any) bool {
	if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this, too
		return true
	}
	ctx := r.Context()
	p := unforeseen(ctx)
	s.log.LogAttrs(ctx, slog.LevelError, "request panicked", slog.String("panic", fmt.Sprint(v)),
		slog.String("incident", p.TraceID), slog.String("stack", string(debug.Stack())))
	if w.status != 0 {
		return true
	}
	WriteProblem(w, r, p)
	return false
}

func (s *Server) logRequest(w *recorder, r *http.Request, client Client, took time.Duration) {
	level := slog.LevelDebug
	switch {
	case w.status == http.StatusServiceUnavailable:
		level = slog.LevelWarn
	case w.status >= 500:
		level = slog.LevelError
	case w.status >= 400 && w.status != statusGone && w.status != http.StatusTooManyRequests: // whoever floods us does not flood the log
		level = slog.LevelInfo
	}
	s.log.LogAttrs(r.Context(), level, "request",
		slog.String("method", r.Method), slog.String("path", shortened(r.URL.Path)), slog.String("route", w.route),
		slog.Int("status", cmp.Or(w.status, http.StatusOK)), slog.Int64("bytes", w.bytes), slog.Duration("took", took),
		slog.String("client", client.Addr.String()))
}

// shortened is s as the log has it: nobody fills that with one request.
func shortened(s string) string {
	const enough = 500
	if len(s) > enough {
		s = strings.ToValidUTF8(s[:enough], "") + "…"
	}
	return s
}
