package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// weather is what can go wrong in a run, and how often. Every run has a weather of its own, in which most kinds of
// faults are rare or absent: what only happens without the others is found, too.
type weather struct {
	broker    eventtest.Faults
	latency   time.Duration // a statement takes up to this
	statement float64       // a statement or commit fails
	response  float64       // an answer to a user is lost
	harm      int           // how many of a hundred actions do harm
	kinds     []string      // of harm
}

// harms are the kinds of harm, some of them several times because they matter more.
var harms = []string{
	"kill", "kill", "kill at", "kill at", "kill at", "stop", "blackout", "down", "disconnect", "disconnect all", "wipe", "curse",
	"trouble", "clock", "outage", "poison", "stranger",
}

func drawWeather(rng *rand.Rand) weather {
	often := func(most float64) float64 {
		return []float64{0, 0, 0, most / 10, most}[rng.IntN(5)]
	}
	w := weather{
		broker: eventtest.Faults{
			Seed: rng.Uint64(), LosePublish: often(0.3), LosePublishAck: often(0.3), LoseAck: often(0.3),
			Duplicate: often(0.5), Reorder: often(0.5), Disconnect: often(0.03),
			MaxDelay: []time.Duration{0, time.Millisecond, 50 * time.Millisecond, 2 * time.Second}[rng.IntN(4)],
		},
		latency:   []time.Duration{200 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond}[rng.IntN(4)],
		statement: often(0.02),
		response:  often(0.2),
		harm:      []int{0, 10, 20, 40}[rng.IntN(4)],
	}
	for _, kind := range harms {
		if rng.IntN(3) == 0 {
			w.kinds = append(w.kinds, kind)
		}
	}
	if len(w.kinds) == 0 {
		w.harm = 0
	}
	return w
}

// faults are the faults of the disks in force.
type faults struct {
	mu        sync.Mutex
	latency   time.Duration
	statement float64
	troubles  []trouble
}

// trouble has a service's statements fail for a while: those that begin like text, or every one now and then.
type trouble struct {
	service string
	text    string
	chance  float64
	length  time.Duration
	until   time.Time // set by add
}

func (t trouble) String() string {
	return fmt.Sprintf("%q fails with a chance of %v for %v", t.text, t.chance, t.length)
}

// wait returns how long a statement takes.
func (f *faults) wait(rng *rand.Rand) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.latency <= 0 {
		return 0
	}
	// Odd numbers of nanoseconds keep two processes from waking at the same moment.
	return time.Duration(rng.Int64N(int64(f.latency))) + 1
}

// fails decides whether a statement fails.
func (f *faults) fails(rng *rand.Rand, service, what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.statement > 0 && rng.Float64() < f.statement {
		return true
	}
	for _, t := range f.troubles {
		if t.service == service && time.Now().Before(t.until) && strings.HasPrefix(strings.TrimSpace(what), t.text) && rng.Float64() < t.chance {
			return true
		}
	}
	return false
}

func (f *faults) add(t trouble) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.until = time.Now().Add(t.length)
	f.troubles = append(slices.DeleteFunc(f.troubles, func(o trouble) bool { return time.Now().After(o.until) }), t)
}

// begin puts a weather's faults in force.
func (f *faults) begin(w weather) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latency, f.statement = w.latency, w.statement
}

// end has statements work from here on. They still take their time.
func (f *faults) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.statement, f.troubles = 0, nil
}

// curses are statements on which a service's handlers hang.
var curses = map[string][]string{
	"auth":     {"INSERT INTO users"},
	"tickets":  {"UPDATE tickets SET version", "INSERT INTO waiting", "UPDATE tickets SET title"},
	"orders":   {"INSERT INTO tickets", "UPDATE orders", "INSERT INTO orders"},
	"payments": {"INSERT INTO orders", "UPDATE orders", "UPDATE payments", "INSERT INTO sandbox_charges"},
}
