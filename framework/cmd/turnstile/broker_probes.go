package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// readyPatience is for a server's answer to how it is.
const readyPatience = time.Second

// brokerProbes tells how a broker is, as services do: see package framework. The zero value is of one that starts.
type brokerProbes struct {
	mu      sync.Mutex
	broker  broker // nil until it has started
	ends    bool
	settled bool // it was ready once
}

func (p *brokerProbes) started(b broker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broker = b
}

func (p *brokerProbes) leaving() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends = true
}

// ready is nil if clients should come here.
func (p *brokerProbes) ready(ctx context.Context) error {
	p.mu.Lock()
	broker, ends := p.broker, p.ends
	p.mu.Unlock()
	switch {
	case ends:
		return errors.New("it is stopping")
	case broker == nil:
		return errors.New("it is starting")
	}
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	err := broker.Ready(ctx)
	if err == nil {
		p.mu.Lock()
		p.settled = true
		p.mu.Unlock()
	}
	return err
}

// startup is nil for ever after the broker was ready once.
func (p *brokerProbes) startup(ctx context.Context) error {
	p.mu.Lock()
	settled := p.settled
	p.mu.Unlock()
	if settled {
		return nil
	}
	return p.ready(ctx)
}

// serve answers at addr until end.
func (p *brokerProbes) serve(addr string, log *slog.Logger) (end func(), err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for probes (--admin): %w", err)
	}
	server := &http.Server{
		Handler: p.pages(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("probes are not answered any more", "error", err)
		}
	}()
	return func() {
		_ = server.Close() // the listener's error helps nobody now
		<-done
	}, nil
}

func (p *brokerProbes) pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", p.answer("alive", func(context.Context) error { return nil }))
	mux.HandleFunc("GET /readyz", p.answer("ready", p.ready))
	mux.HandleFunc("GET /startupz", p.answer("ready", p.startup))
	return mux
}

// role tells people who among the servers of a cluster does their work.
func (p *brokerProbes) role() string {
	p.mu.Lock()
	broker := p.broker
	p.mu.Unlock()
	switch {
	case broker == nil:
		return ""
	case broker.Leads():
		return "leader"
	}
	return "follower"
}

func (p *brokerProbes) answer(fine string, check func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		body := map[string]string{"status": fine}
		if fine == "ready" { // to be alive depends on nothing
			if role := p.role(); role != "" {
				body["role"] = role
			}
		}
		if err := check(r.Context()); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			body["status"], body["error"] = "not "+fine, err.Error()
		}
		_ = json.NewEncoder(w).Encode(body) // the client may have gone
	}
}
