package gateway

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed index.html
var page string

var pageTemplate = template.Must(template.New("index").Parse(page))

// entry is one service on the index page.
type entry struct {
	Name   string            `json:"name"`
	Status string            `json:"status"` // ready, degraded, unready, starting or down
	Why    string            `json:"why,omitempty"`
	Paths  []string          `json:"paths"`
	Docs   string            `json:"docs,omitempty"`
	Admin  string            `json:"admin,omitempty"`
	PID    int               `json:"pid,omitempty"`
	Checks map[string]string `json:"checks,omitempty"`
}

// index lists the services: as a page for browsers, else as JSON.
func (g *Gateway) index(w http.ResponseWriter, r *http.Request) {
	entries := g.entries()
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	var asking sync.WaitGroup
	for i := range entries {
		if entries[i].Admin != "" {
			asking.Go(func() { g.ask(ctx, &entries[i]) })
		}
	}
	asking.Wait()
	var b bytes.Buffer
	protect(w.Header())
	w.Header().Set("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		if err := pageTemplate.Execute(&b, entries); err != nil {
			problem(w, r, http.StatusInternalServerError, err.Error())
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
	} else {
		encoder := json.NewEncoder(&b)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(map[string]any{"services": entries}) // strings and numbers always encode
		w.Header().Set("Content-Type", "application/json")
	}
	_, _ = w.Write(b.Bytes())
}

func (g *Gateway) entries() []entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	entries := []entry{}
	for _, s := range g.services {
		e := entry{Name: s.name, Paths: slices.Clone(s.prefixes), Docs: s.docs, PID: s.status.PID, Why: s.status.Why}
		if s.status.Admin != "" {
			e.Admin = "http://" + s.status.Admin
		}
		switch s.status.Phase {
		case Coming:
			e.Status = "starting"
		case Up:
			e.Status = "ready"
		case Down:
			e.Status = "down"
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	return entries
}

// ask has the service say how it is.
func (g *Gateway) ask(ctx context.Context, e *entry) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Admin+"/readyz", nil)
	if err != nil {
		return
	}
	response, err := g.base.RoundTrip(request)
	if err != nil {
		return // the phase says enough
	}
	defer response.Body.Close()
	var health struct {
		Status string            `json:"status"`
		Checks map[string]string `json:"checks"`
	}
	if json.NewDecoder(response.Body).Decode(&health) == nil && health.Status != "" {
		e.Status, e.Checks = health.Status, health.Checks
	}
}
