package framework

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/turnstile-go/turnstile/framework/internal/adminport"
)

// adminPages are the probes, the metrics and the debug pages.
func adminPages(h *health, metrics http.Handler, describe func() ([]byte, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		adminport.Respond(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := h.report()
		code := http.StatusServiceUnavailable
		if r.Status == statusReady || r.Status == statusDegraded {
			code = http.StatusOK
		}
		adminport.Respond(w, code, r)
	})
	mux.HandleFunc("GET /startupz", func(w http.ResponseWriter, _ *http.Request) {
		r := h.report()
		code := http.StatusServiceUnavailable
		if r.Status == statusReady || h.ready.Load() {
			code = http.StatusOK
		}
		adminport.Respond(w, code, r)
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

	return mux
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
