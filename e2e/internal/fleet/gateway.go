package fleet

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"time"
)

// gateway passes requests on to the services: to the replicas in turn, as the load balancers of clusters do, that run.
// One that is paused or cannot be reached gets its share.
type gateway struct {
	server  http.Server
	address string
	backing map[string]*replicas // by service
}

// replicas are those of one service.
type replicas struct {
	all  []*Service
	last atomic.Uint64
}

// next returns the next replica that takes a request, or nil.
func (r *replicas) next(takes func(*Service) bool) *Service {
	for range r.all {
		if s := r.all[r.last.Add(1)%uint64(len(r.all))]; takes(s) {
			return s
		}
	}
	return nil
}

// startGateway listens. It has no services yet.
func startGateway() (*gateway, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gateway{address: l.Addr().String(), backing: map[string]*replicas{}}
	for _, name := range Names {
		g.backing[name] = &replicas{}
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.URL.Host
			r.SetXForwarded()
		},
		Transport:    &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		ErrorLog:     log.New(io.Discard, "", 0), // what is disturbed is disturbed on purpose
	}
	g.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		replicas := g.backing[serviceOf(r.URL.Path)]
		if replicas == nil {
			http.NotFound(w, r)
			return
		}
		s := replicas.next((*Service).take)
		if s == nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer s.done()
		r.URL.Host = s.Addr
		proxy.ServeHTTP(w, r)
	})
	g.server.ErrorLog = proxy.ErrorLog
	go func() { _ = g.server.Serve(l) }() // until close
	return g, nil
}

// add has the gateway pass requests to one more replica. It is not to be called once requests come.
func (g *gateway) add(s *Service) {
	r := g.backing[s.Service]
	r.all = append(r.all, s)
}

func (g *gateway) close() error {
	err := g.server.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serviceOf returns the service that a path belongs to, or "".
func serviceOf(path string) string {
	if strings.HasPrefix(path, "/.well-known/") {
		return "auth"
	}
	rest, ok := strings.CutPrefix(path, "/api/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	if name == "users" {
		return "auth"
	}
	return name
}
