package sim

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"regexp"
	"sync"
	"time"
)

// history is what happened in a run: commands and their answers, messages, failures, deaths.
type history struct {
	mu      sync.Mutex
	began   time.Time
	entries []entry
}

// entry is put into words only when somebody wants to read it.
type entry struct {
	at        time.Duration
	who, what string
	format    string
	args      []any
}

func (h *history) note(who, what, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = append(h.entries, entry{time.Since(h.began), who, what, format, args})
}

// print writes the history for people. Ids are replaced by numbers in the order of their appearance, and times by the
// seconds since the beginning.
func (h *history) print(to io.Writer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := map[string]string{}
	for _, e := range h.entries {
		text := fmt.Sprintf("%12.6f  %-12s %-9s %s", e.at.Seconds(), e.who, e.what, fmt.Sprintf(e.format, e.args...))
		text = uuids.ReplaceAllStringFunc(text, func(id string) string {
			if ids[id] == "" {
				ids[id] = fmt.Sprintf("#%d", len(ids)+1)
			}
			return ids[id]
		})
		text = times.ReplaceAllStringFunc(text, func(at string) string {
			t, err := time.Parse(time.RFC3339Nano, at)
			if err != nil {
				return at
			}
			return fmt.Sprintf("%.6fs", t.Sub(h.began).Seconds())
		})
		fmt.Fprintln(to, traces.ReplaceAllString(text, `"traceId":"…"`))
	}
}

var (
	uuids  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	times  = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	traces = regexp.MustCompile(`"traceId":"[0-9a-f]+"`)
)

// sum is the same for two runs in which the same happened at the same time.
func (h *history) sum() uint64 {
	f := fnv.New64a()
	h.print(f)
	return f.Sum64()
}

// message is an event on its way.
type message []byte

func (m message) String() string {
	var e struct{ Type, Subject, Sequence string }
	if err := json.Unmarshal(m, &e); err != nil {
		return fmt.Sprintf("%q", []byte(m))
	}
	return fmt.Sprintf("%s %s %s", e.Type, e.Subject, e.Sequence)
}
