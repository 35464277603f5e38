package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Client is who sent a request, as far as the network and the trusted proxies know.
type Client struct {
	Addr netip.Addr // the zero Addr when unknown
	TLS  bool       // the client speaks TLS, to us or to a trusted proxy
}

type clientKey struct{}

// ClientFrom returns the client of the request that ctx belongs to.
func ClientFrom(ctx context.Context) Client {
	c, _ := ctx.Value(clientKey{}).(Client)
	return c
}

func (s *Server) client(r *http.Request) Client {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return Client{TLS: r.TLS != nil}
	}
	c := Client{Addr: addr.Unmap().WithZone(""), TLS: r.TLS != nil}
	if !s.trusted(c.Addr) {
		return c
	}
	if first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ","); first != "" {
		c.TLS = strings.EqualFold(strings.TrimSpace(first), "https")
	}
	// Every proxy appends whom it heard from: the last one that is not a proxy of ours is the client.
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		c.Addr = hop.Unmap().WithZone("")
		if !s.trusted(c.Addr) {
			break
		}
	}
	return c
}

func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.cfg.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

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
		rec.Header().Set("Cache-Control", "no-store")
		rec.Header().Set("X-Content-Type-Options", "nosniff")

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
		slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("route", w.route),
		slog.Int("status", cmp.Or(w.status, http.StatusOK)), slog.Int64("bytes", w.bytes), slog.Duration("took", took),
		slog.String("client", client.Addr.String()))
}

// normalize treats spellings of one address alike: HEAD is GET without a body, a slash at the end says nothing. What no
// database can store is refused.
func (s *Server) normalize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !storable(r.URL.Path) {
			WriteProblem(w, r, NotFound("There is nothing at this address"))
			return
		}
		for name, values := range r.URL.Query() {
			for _, v := range values {
				if !storable(v) {
					WriteProblem(w, r, Invalid(Field{Name: strings.ToValidUTF8(name, "�"), Message: invalidQuery}))
					return
				}
			}
		}
		trimmed := len(r.URL.Path) > 1 && strings.HasSuffix(r.URL.Path, "/")
		if trimmed || r.Method == http.MethodHead {
			q := *r
			u := *r.URL
			q.URL = &u
			if trimmed {
				u.Path = strings.TrimSuffix(u.Path, "/")
				u.RawPath = strings.TrimSuffix(u.RawPath, "/")
			}
			if q.Method == http.MethodHead {
				q.Method = http.MethodGet
			}
			r = &q
		}
		next.ServeHTTP(w, r)
	})
}

const invalidQuery = "The query is not valid text"

func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// route names the request's trace, metrics and log line after the route that was found.
func route(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx := c.Request().Context()
		if path := c.Path(); path != "" {
			trace.SpanFromContext(ctx).SetName(c.Request().Method + " " + path)
			attr := attribute.String("http.route", path)
			trace.SpanFromContext(ctx).SetAttributes(attr)
			if labeler, ok := otelhttp.LabelerFromContext(ctx); ok {
				labeler.Add(attr)
			}
			if rec, ok := ctx.Value(recorderKey{}).(*recorder); ok {
				rec.route = path
			}
		}
		return next(c)
	}
}

// routeError answers what the router could not place.
func (s *Server) routeError(err error, c echo.Context) {
	switch {
	case errors.Is(err, echo.ErrNotFound):
		WriteProblem(c.Response(), c.Request(), NotFound("There is nothing at this address"))
	case errors.Is(err, echo.ErrMethodNotAllowed): // the router has set Allow
		WriteProblem(c.Response(), c.Request(), newProblem(http.StatusMethodNotAllowed, "This method is not allowed here"))
	default:
		WriteProblem(c.Response(), c.Request(), s.problem(c.Request().Context(), err))
	}
}
