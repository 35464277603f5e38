// Package gateway is the one address in front of all services of a workspace, as the ingress is in a cluster.
package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// patience is the longest wait for a crashed service's next start during which requests are held rather than refused.
const patience = 2 * time.Second

// Phase is whether a service can take requests.
type Phase int

// The phases of a service.
const (
	Coming Phase = iota // on its way up: requests are held
	Up
	Down // crashed, or it does not compile: requests are refused, unless its next start is near
)

// Status is what the gateway knows about one service. The zero value is a service on its way up.
type Status struct {
	Phase Phase
	Addr  string // host:port of its HTTP server, in phase Up
	Admin string // host:port of its admin server
	PID   int
	Why   string    // in phase Down: what happened, such as "crashed (exit code 2)"
	Retry time.Time // in phase Down: when it is started again; zero when that depends on the developer
}

// Gateway routes requests by path to the service that serves it. Create it with New.
type Gateway struct {
	hold  time.Duration
	proxy *httputil.ReverseProxy
	base  *http.Transport

	waiting func() // for tests: called when a request begins to wait

	mu       sync.Mutex
	changed  chan struct{} // closed at the next change
	services map[string]*service
	open     bool // every service's routes are known
}

type service struct {
	name     string
	status   Status
	prefixes []string
	docs     string
}

// New returns a gateway that holds requests for up to hold while the service they are for is on its way up.
func New(hold time.Duration) *Gateway {
	g := &Gateway{
		hold:     hold,
		changed:  make(chan struct{}),
		services: map[string]*service{},
		waiting:  func() {},
		base: &http.Transport{ // no proxy: services are on this machine
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true, // the client's business
		},
	}
	g.proxy = &httputil.ReverseProxy{
		Transport: (*transport)(g),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = r.In.Context().Value(target{}).(string) // the transport puts the address there
			r.Out.Host = r.In.Host                                   // origin checks compare with what the browser sees
			r.SetXForwarded()
		},
		ErrorHandler: g.fail,
		ErrorLog:     log.New(io.Discard, "", 0), // fail answers; what else is said is about clients that went away
	}
	return g
}

// Route says which paths a service serves: each prefix takes the path itself and all below it. docs is the path of
// its documentation. It replaces what was said of the service before.
func (g *Gateway) Route(name string, prefixes []string, docs string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, other := range g.services {
		for _, p := range other.prefixes {
			if other.name != name && slices.Contains(prefixes, p) {
				return fmt.Errorf("%s and %s both serve %s", other.name, name, p)
			}
		}
	}
	s := g.service(name)
	s.prefixes, s.docs = slices.Clone(prefixes), docs
	g.notify()
	return nil
}

// Open says that the routes of every service are known: from now on a path that none of them serves is answered with
// 404 instead of being held.
func (g *Gateway) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	g.notify()
}

// Set says how a service is.
func (g *Gateway) Set(name string, status Status) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.service(name).status = status
	g.notify()
}

func (g *Gateway) service(name string) *service {
	s := g.services[name]
	if s == nil {
		s = &service{name: name}
		g.services[name] = s
	}
	return s
}

func (g *Gateway) notify() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// Close closes the idle connections to services.
func (g *Gateway) Close() { g.base.CloseIdleConnections() }

// target is the context key of the name of the service that a request is for.
type target struct{}

// ServeHTTP passes the request on.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" {
		g.index(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.hold)
	name, found := g.find(ctx, r.URL.Path)
	cancel()
	if !found {
		if r.Context().Err() == nil {
			problem(w, r, http.StatusNotFound, fmt.Sprintf("No service serves %s. The services and their paths are listed at http://%s/.", r.URL.Path, r.Host))
		}
		return
	}
	g.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), target{}, name)))
}

// find returns the name of the service with the longest prefix of path.
func (g *Gateway) find(ctx context.Context, path string) (name string, found bool) {
	for {
		g.mu.Lock()
		longest := -1
		for _, s := range g.services {
			for _, p := range s.prefixes {
				if below(path, p) && len(p) > longest {
					longest, name = len(p), s.name
				}
			}
		}
		changed, open := g.changed, g.open
		g.mu.Unlock()
		if longest >= 0 || open {
			return name, longest >= 0
		}
		g.waiting()
		select {
		case <-changed:
		case <-ctx.Done():
			return "", false
		}
	}
}

func below(path, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	return strings.HasPrefix(path, prefix) && (len(path) == len(prefix) || path[len(prefix)] == '/')
}

// transport sends a request to the service named by its host, when that is up.
type transport Gateway

// RoundTrip sends the request. A connection that could not be made was no attempt: the service is waited for.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	g := (*Gateway)(t)
	name := r.URL.Host
	deadline := time.Now().Add(g.hold)
	out := r.Clone(r.Context())
	if r.Body != nil {
		defer r.Body.Close()
		out.Body = unclosed{r.Body} // a failed dial closes the body, which the next one needs
	}
	for refused := ""; ; {
		addr, err := g.await(r.Context(), name, refused, deadline)
		if err != nil {
			return nil, err
		}
		out.URL.Host = addr
		response, err := g.base.RoundTrip(out)
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && r.Context().Err() == nil {
			refused = addr // it just died, and we know before its supervisor does
			continue
		}
		if err != nil {
			return nil, &brokenError{name: name, err: err}
		}
		return response, nil
	}
}

type unclosed struct{ io.Reader }

func (unclosed) Close() error { return nil }

// await returns the address of the service as soon as it is up at another address than refused.
func (g *Gateway) await(ctx context.Context, name, refused string, deadline time.Time) (addr string, err error) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		g.mu.Lock()
		status, changed := g.service(name).status, g.changed
		g.mu.Unlock()
		switch {
		case status.Phase == Up && status.Addr != refused:
			return status.Addr, nil
		case status.Phase == Down && (status.Retry.IsZero() || time.Until(status.Retry) > patience):
			return "", &downError{name: name, why: status.Why, retry: status.Retry}
		}
		g.waiting()
		select {
		case <-changed:
		case <-timer.C:
			why := status.Why
			if status.Phase != Down {
				why = "is not ready yet"
			}
			return "", &downError{name: name, why: why, retry: time.Now().Add(time.Second)}
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// downError is a service that could not be asked.
type downError struct {
	name, why string
	retry     time.Time
}

func (e *downError) Error() string { return e.name + " " + e.why }

// brokenError is a service that was asked and did not answer.
type brokenError struct {
	name string
	err  error
}

func (e *brokenError) Error() string { return e.name + ": " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// fail answers a request that a service did not.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	if down, ok := errors.AsType[*downError](err); ok {
		detail := fmt.Sprintf("The service %s %s. The terminal of turnstile says more.", down.name, down.why)
		if !down.retry.IsZero() {
			seconds := max(1, int(math.Ceil(time.Until(down.retry).Seconds())))
			w.Header().Set("Retry-After", strconv.Itoa(seconds))
		}
		problem(w, r, http.StatusServiceUnavailable, detail)
		return
	}
	if r.Context().Err() != nil { // nobody reads the answer
		w.WriteHeader(499)
		return
	}
	name := "The service"
	if broken, ok := errors.AsType[*brokenError](err); ok {
		name = "The service " + broken.name
	}
	problem(w, r, http.StatusBadGateway, name+" broke off before it answered. Whether the request took effect is not known.")
}

// problem answers in the form in which services do (RFC 9457).
func problem(w http.ResponseWriter, r *http.Request, status int, detail string) {
	type message struct {
		Message string `json:"message"`
	}
	body := struct {
		Type     string    `json:"type"`
		Title    string    `json:"title"`
		Status   int       `json:"status"`
		Detail   string    `json:"detail"`
		Instance string    `json:"instance"`
		Errors   []message `json:"errors"`
	}{"about:blank", http.StatusText(status), status, detail, r.URL.Path, []message{{detail}}}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(body) // strings and numbers always encode
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}
