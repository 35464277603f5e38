package main

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/internal/adminport"
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
		status, body := http.StatusOK, map[string]string{"status": fine}
		if fine == "ready" { // to be alive depends on nothing
			if role := p.role(); role != "" {
				body["role"] = role
			}
		}
		if err := check(r.Context()); err != nil {
			status = http.StatusServiceUnavailable
			body["status"], body["error"] = "not "+fine, err.Error()
		}
		adminport.Respond(w, status, body)
	}
}
