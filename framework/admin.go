package framework

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"
)

// admin serves the probes, the metrics and the debug pages.
type admin struct {
	addr   string // where it can be reached from this machine
	server *http.Server
	done   chan struct{}
}

func serveAdmin(listener net.Listener, h *health, metrics http.Handler, describe func() ([]byte, error), log *slog.Logger) *admin {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := h.report()
		code := http.StatusServiceUnavailable
		if r.Status == statusReady || r.Status == statusDegraded {
			code = http.StatusOK
		}
		respond(w, code, r)
	})
	mux.HandleFunc("GET /startupz", func(w http.ResponseWriter, _ *http.Request) {
		r := h.report()
		code := http.StatusServiceUnavailable
		if r.Status == statusReady || h.ready.Load() {
			code = http.StatusOK
		}
		respond(w, code, r)
	})
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /debug/describe", func(w http.ResponseWriter, _ *http.Request) {
		description, err := describe()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(description) // the client may have gone
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)

	for _, p := range h.parts {
		p.debug(mux)
	}

	a := &admin{
		addr: dialable(listener.Addr().String()),
		done: make(chan struct{}),
		server: &http.Server{
			Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
			ErrorLog: slog.NewLogLogger(log.With("part", "admin").Handler(), slog.LevelWarn),
		},
	}
	go func() {
		defer close(a.done)
		if err := a.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("admin server failed", "error", err)
		}
	}()
	return a
}

// debug adds the part's own pages. A path that is taken panics, as every mistake in what the service is made of.
func (p *part) debug(mux *http.ServeMux) {
	d, ok := p.Part.(debugger)
	if !ok {
		return
	}
	for path, handler := range d.Debug() {
		if !strings.HasPrefix(path, "/debug/") {
			panic(fmt.Sprintf("framework: part %q has a page at %s on the admin port: want a path below /debug/", p.name, path))
		}
		mux.Handle(path, handler)
	}
}

// close ends the server and whatever it is answering.
func (a *admin) close() {
	_ = a.server.Close() // the listener's error helps nobody now
	<-a.done
}

func respond(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client may have gone
}
