package demo

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

const slow = time.Second // effects that took longer catch the eye

// timeline shows every event when it was committed, and how long after that it had its effect in each group.
func (d *demo) timeline(paths []admin.Path) string {
	c := d.Console
	type line struct {
		at    time.Time
		cells []string
		mark  string
	}
	var lines []line
	for _, e := range paths {
		applied := map[string]time.Time{}
		for _, s := range e.Steps {
			if _, twice := applied[s.Group]; s.What == "applied" && !twice {
				applied[s.Group] = s.At
			}
		}
		var after []string
		for _, g := range e.Groups {
			if g.State == "passed" {
				continue // it does not handle the type
			}
			took := c.Text(console.Bad, g.State)
			if at, ok := applied[g.Group]; ok {
				took = short(max(0, at.Sub(e.At)))
				if at.Sub(e.At) > slow {
					took = c.Text(console.Warn, took)
				}
			}
			after = append(after, c.Name(g.Group)+" "+took)
		}
		if after == nil {
			after = []string{c.Text(console.Dim, "nobody listens")}
		}
		lines = append(lines, line{at: e.At, cells: []string{
			c.Text(console.Dim, d.since(e.At)), c.Name(e.Service), e.Type, c.Text(console.Dim, "…"+e.Key[max(0, len(e.Key)-6):]),
			fmt.Sprint(e.Sequence), strings.Join(after, "  "),
		}})
	}
	for _, m := range d.marks {
		lines = append(lines, line{at: m.at, mark: c.Text(console.Warn, "  "+d.since(m.at)+"   ── "+m.text)})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })

	hidden := 0
	if d.Lines > 0 && len(lines) > d.Lines { // the beginning, the end, and what is no event
		var few []line
		for i, l := range lines {
			if i < d.Lines/2 || i >= len(lines)-d.Lines/2 || l.mark != "" {
				few = append(few, l)
			}
		}
		hidden = len(lines) - len(few)
		lines = few
	}
	rows := [][]string{{c.Text(console.Dim, "AFTER"), c.Text(console.Dim, "SERVICE"), c.Text(console.Dim, "EVENT"), c.Text(console.Dim, "KEY"), c.Text(console.Dim, "NO."), c.Text(console.Dim, "EFFECT, COUNTED FROM COMMIT")}}
	for _, l := range lines {
		if l.mark == "" {
			rows = append(rows, l.cells)
		}
	}
	table := strings.Split(strings.TrimSuffix(console.Table(rows), "\n"), "\n")
	var out strings.Builder
	out.WriteString("\n" + table[0] + "\n")
	row := 1
	for i, l := range lines {
		if hidden > 0 && i == d.Lines/2 {
			fmt.Fprintf(&out, "  %s\n", c.Text(console.Dim, fmt.Sprintf("… %d more events (--timeline 0 shows all) …", hidden)))
		}
		if l.mark != "" {
			out.WriteString(l.mark + "\n")
			continue
		}
		out.WriteString(table[row] + "\n")
		row++
	}
	return out.String()
}

func (d *demo) since(at time.Time) string { return fmt.Sprintf("%7.3f s", at.Sub(d.Began).Seconds()) }
