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
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
			r.Out.URL.Host = parcelOf(r.In).service // the transport puts the address there
			r.Out.Host = r.In.Host                  // origin checks compare with what the browser sees
			r.Out.URL.RawQuery = r.In.URL.RawQuery  // also where it is malformed: that is for the service to say
			r.SetXForwarded()
		},
		ModifyResponse: func(r *http.Response) error {
			parcelOf(r.Request).answer(r.Header)
			return nil
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

// Server returns a server of the gateway. It gives clients more time than services do (15 s for a request), so that it is their
// service that tells them, and ends the connections of those that take even longer.
func (g *Gateway) Server() *http.Server {
	return &http.Server{
		Handler:           g,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       g.hold + 20*time.Second, // a body that is held goes on to its service afterwards
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10, // as services have it
	}
}

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
	p := &parcel{service: name, body: r.Body}
	p.over.Store(r.ContentLength == 0)
	r = r.WithContext(context.WithValue(r.Context(), parcelKey{}, p))
	r.Body = p
	g.proxy.ServeHTTP(w, r)
	p.end(w)
}

// parcel is a request's body on its way to a service. The service may answer before it has all of it, because it does not
// want it or it does not come. Left to itself, net/http waits for the body then: with the answer first, and later for ever.
type parcel struct {
	service string // its name

	reading sync.Mutex
	body    io.ReadCloser
	late    bool        // it did not come in time
	left    bool        // nobody wants more of it
	over    atomic.Bool // all of it has been read
}

type parcelKey struct{}

func parcelOf(r *http.Request) *parcel { return r.Context().Value(parcelKey{}).(*parcel) }

// Read is called by the transport, also after the answer.
func (p *parcel) Read(b []byte) (int, error) {
	p.reading.Lock()
	defer p.reading.Unlock()
	if p.left {
		return 0, net.ErrClosed
	}
	n, err := p.body.Read(b)
	if errors.Is(err, io.EOF) {
		p.over.Store(true)
	}
	p.late = p.late || errors.Is(err, os.ErrDeadlineExceeded)
	return n, err
}

func (p *parcel) isLate() bool {
	p.reading.Lock()
	defer p.reading.Unlock()
	return p.late
}

// Close does nothing: it would wait for Read. Net/http closes the body when all is over.
func (p *parcel) Close() error { return nil }

// answer is called before a header is sent. What is left of a body is not to be taken for the next request.
func (p *parcel) answer(h http.Header) {
	if !p.over.Load() {
		h.Set("Connection", "close")
	}
}

// end sends the answer and gives up the rest of the body. The client has a moment to read before its connection ends.
func (p *parcel) end(w http.ResponseWriter) {
	if p.over.Load() {
		return
	}
	c := http.NewResponseController(w)
	_ = c.Flush() // a test's recorder can do neither
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	p.reading.Lock()
	defer p.reading.Unlock()
	p.left = true
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
	parcelOf(r).answer(w.Header())
	if down, ok := errors.AsType[*downError](err); ok {
		detail := fmt.Sprintf("The service %s %s. The terminal of turnstile says more.", down.name, down.why)
		if !down.retry.IsZero() {
			seconds := max(1, int(math.Ceil(time.Until(down.retry).Seconds())))
			w.Header().Set("Retry-After", strconv.Itoa(seconds))
		}
		problem(w, r, http.StatusServiceUnavailable, detail)
		return
	}
	if r.Context().Err() != nil { // net/http ends it when it cannot read
		if parcelOf(r).isLate() {
			problem(w, r, http.StatusRequestTimeout, "The body did not arrive in time.")
		} else {
			w.WriteHeader(499) // nobody reads the answer
		}
		return
	}
	name := "The service"
	if broken, ok := errors.AsType[*brokenError](err); ok {
		name = "The service " + broken.name
	}
	problem(w, r, http.StatusBadGateway, name+" broke off before it answered. Whether the request took effect is not known.")
}

// protect has browsers treat what the gateway itself answers as they treat services' answers.
func protect(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'") // the index has its style in it
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
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
	protect(w.Header())
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}
