package framework

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// status is what a service says of itself on /readyz.
type status string

const (
	statusReady    status = "ready"
	statusDegraded status = "degraded" // works, though something it can do without is away
	statusUnready  status = "unready"
	statusDraining status = "draining"
)

// health answers the probes.
type health struct {
	parts    []*part
	ready    atomic.Bool // has been ready
	draining atomic.Bool
}

func (h *health) drain() { h.draining.Store(true) }

// report is the body of /readyz and /startupz.
type report struct {
	Status status            `json:"status"`
	Checks map[string]string `json:"checks"`
}

const (
	checkOK      = "ok"
	checkWaiting = "not started"
)

// report asks every part.
func (h *health) report() report {
	r := report{Status: statusReady, Checks: map[string]string{}}
	for _, p := range h.parts {
		for name, err := range p.checks() {
			if _, taken := r.Checks[name]; taken {
				name = p.name + "/" + name
			}
			r.Checks[name] = checkOK
			if err == nil {
				continue
			}
			r.Checks[name] = cmp.Or(err.Error(), "failing")
			var d degraded
			if h.ready.Load() && errors.As(err, &d) && d.Degraded() {
				if r.Status == statusReady {
					r.Status = statusDegraded
				}
			} else {
				r.Status = statusUnready
			}
		}
	}
	if h.draining.Load() {
		r.Status = statusDraining
	}
	return r
}

// checks are those of the part. Before it has started, and if it has none, there is one by the part's name.
func (p *part) checks() (checks map[string]error) {
	if !p.started.Load() {
		if err := p.startErr.Load(); err != nil {
			return map[string]error{p.name: *err}
		}
		return map[string]error{p.name: errors.New(checkWaiting)}
	}
	if r, ok := p.Part.(readier); ok {
		if err := guard(func() error { checks = r.Ready(); return nil }); err != nil {
			return map[string]error{p.name: fmt.Errorf("check failed: %w", err)}
		}
	}
	if len(checks) == 0 {
		return map[string]error{p.name: nil}
	}
	return checks
}

// failing lists the checks that fail, for the log.
func (r report) failing() string {
	var failing []string
	for name, what := range r.Checks {
		if what != checkOK {
			failing = append(failing, name+": "+what)
		}
	}
	slices.Sort(failing)
	return strings.Join(failing, "; ")
}
