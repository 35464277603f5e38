package sim

import (
	"slices"
	"strings"

	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// move takes the running system from stan to jetstream, as an operator does who restarts one service after the other
// and goes by what admin.Brokers says.
type move struct {
	begin int // the step of the run with which it begins
	done  bool
	why   string // it is not done
}

// brokerNames are the brokers that there are.
var brokerNames = []string{"stan", "jetstream"}

// way is what a service uses from stage to stage.
var way = [][]string{{"stan"}, {"stan", "jetstream"}, {"jetstream"}}

// step does the next thing, if it is time for it, and reports whether it was. A negative number is a step after the run.
func (m *move) step(w *world, o *observer, number int) (done bool) {
	if m == nil || m.done || number >= 0 && (number < m.begin || number%3 != 0) {
		return false
	}
	behind := slices.MinFunc(names, func(a, b string) int { return stage(w.services[a]) - stage(w.services[b]) })
	ahead := slices.MaxFunc(names, func(a, b string) int { return stage(w.services[a]) - stage(w.services[b]) })
	from, to := stage(w.services[behind]), stage(w.services[ahead])
	m.why = "at " + strings.Join(way[from], "+")
	if from > 0 && from == to {
		report, err := admin.Brokers(background, o.ledgers, "jetstream")
		if err != nil {
			m.why = err.Error()
			return false
		}
		if !report.Safe {
			m.why = report.Step
			for _, missing := range report.Missing {
				m.why += "; " + missing.Text
			}
			return false
		}
		if from == len(way)-1 {
			w.note("operator", "moves", "stan is stopped for good")
			m.done = true
			w.brokers["stan"].Down()
			return true
		}
	}
	s := w.services[behind]
	s.uses = way[from+1]
	w.note("operator", "moves", "%s to %v", s.name, s.uses)
	if s.process != nil {
		s.process.stop()
	}
	return true
}

// stage returns how far a service is.
func stage(s *service) int {
	return slices.IndexFunc(way, func(uses []string) bool { return slices.Equal(uses, s.uses) })
}
