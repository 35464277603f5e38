package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// Server serves one API. It is a part of a service: Start opens the listener, Run serves until its context ends and then
// finishes the requests in flight.
type Server struct {
	name        string
	cfg         Config
	log         *slog.Logger
	auth        Authenticator
	mapErr      []func(error) *Problem
	api         *api
	operations  []operation
	handler     http.Handler
	router      http.Handler
	draining    atomic.Bool               // answers close their connections
	ending      atomic.Bool               // connections are shut
	lastRequest atomic.Pointer[time.Time] // since then
	limits      *limits
	document    func() ([]byte, error) // the OpenAPI document, made once
	pruned      atomic.Int64           // when old idempotency keys were forgotten, in microseconds

	mu       sync.Mutex
	listener net.Listener
}

type operation struct {
	Method  string `json:"method"`
	Path    string `json:"path"`
	ID      string `json:"id"`
	Summary string `json:"summary,omitempty"`
	Session bool   `json:"session"`
}

// NewServer returns a server of the API with the given name, the noun of its paths: /api/<name>. It does no I/O. A nil log,
// tracer or meter discards.
func NewServer(name string, cfg Config, log *slog.Logger, tracer trace.TracerProvider, meter metric.MeterProvider) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if tracer == nil {
		tracer = tracenoop.NewTracerProvider()
	}
	if meter == nil {
		meter = metricnoop.NewMeterProvider()
	}
	s := &Server{name: name, cfg: cfg.withDefaults(), log: log}
	s.limits = newLimits(s.cfg, meter)
	e := echo.New()
	e.HTTPErrorHandler = s.routeError
	e.Use(route(e))
	s.api = newAPI(s, e)
	s.document = sync.OnceValues(s.api.document)
	s.serveDocument(e)
	s.router = e
	s.handler = otelhttp.NewHandler(s.observe(s.cors(s.limitClients(s.normalize(conditional(http.HandlerFunc(s.identify)))))), name,
		otelhttp.WithTracerProvider(tracer),
		otelhttp.WithMeterProvider(meter),
		otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
	)
	return s
}

// API is where operations are registered, with huma.Register, before the server starts. An operation with Security is
// refused to callers without a session.
func (s *Server) API() huma.API { return s.api }

// Authenticate sets who tells callers apart. It comes before operations with Security are registered.
func (s *Server) Authenticate(a Authenticator) {
	s.auth = a
	s.api.OpenAPI().Components.SecuritySchemes = a.SecuritySchemes()
	s.router = a.Middleware(s.limitAccounts(s.router))
}

// MapErrors adds to the table that turns handlers' errors into problems: known is asked first, and returns nil for errors
// that it does not know. Problems are never put to it.
func (s *Server) MapErrors(known func(error) *Problem) { s.mapErr = append(s.mapErr, known) }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.visit()
	s.handler.ServeHTTP(w, r)
}

func (s *Server) identify(w http.ResponseWriter, r *http.Request) { s.router.ServeHTTP(w, r) }

// Start opens the listener, so that connections are accepted, though not answered before Run.
func (s *Server) Start(ctx context.Context) error {
	ln, err := s.cfg.Listen(ctx, "tcp", s.cfg.Addr)
	if err != nil {
		return fmt.Errorf("web: listen on %s: %w", s.cfg.Addr, err)
	}
	s.mu.Lock()
	s.listener = ln
	s.mu.Unlock()
	return nil
}

// Addr returns the address that the server listens on, empty before Start.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Ready reports by name whether the server listens.
func (s *Server) Ready() map[string]error {
	if s.Addr() == "" {
		return map[string]error{"http": errors.New("not listening yet")}
	}
	return map[string]error{"http": nil}
}

// Describe lists the operations under "operations", and has the OpenAPI document under the API's name in "openapi".
func (s *Server) Describe() map[string]any {
	_, _ = s.document() // an error comes back when the description is written
	return map[string]any{"operations": s.operations, "openapi": map[string]any{s.name: s.api.OpenAPI()}}
}

// Run serves until ctx ends, then refuses new connections, closes those on which nothing is said, and waits, for at most
// the drain timeout, for the requests in flight. It fails when serving fails or requests had to be cut off.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	ln := s.listener
	s.mu.Unlock()
	if ln == nil {
		return errors.New("web: Run before Start")
	}
	conns := newConnections()
	server := &http.Server{
		Handler:           s,
		ConnState:         conns.note,
		ReadHeaderTimeout: s.cfg.ReadHeaderTimeout,
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      s.cfg.WriteTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("web: serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	s.draining.Store(true)
	_ = ln.Close()
	<-served
	s.ending.Store(true)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	conns.end(drain)
	err := server.Shutdown(drain)
	if err != nil {
		_ = server.Close() // the listener is closed already
		return fmt.Errorf("web: requests were cut off after %s: %w", s.cfg.DrainTimeout, err)
	}
	return nil
}
