package demo

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
)

const slow = time.Second // effects that took longer catch the eye

// timeline shows every event when it was committed, and how long after that it had its effect in each group.
func (d *demo) timeline(b *books) string {
	type effect struct {
		group string
		position
	}
	effects := map[effect]time.Time{}
	for _, a := range b.applied {
		if _, twice := effects[effect{a.group, a.position}]; !twice {
			effects[effect{a.group, a.position}] = a.at
		}
	}
	c := d.Console
	type line struct {
		at    time.Time
		cells []string
		mark  string
	}
	var lines []line
	for _, e := range b.committed {
		var after []string
		for _, group := range slices.Sorted(maps.Keys(d.interest[e.stream])) {
			if !d.interest[e.stream][group][e.typ] {
				continue
			}
			took := c.Text(console.Bad, "lost")
			if at, ok := effects[effect{group, e.position}]; ok {
				took = short(max(0, at.Sub(e.at)))
				if at.Sub(e.at) > slow {
					took = c.Text(console.Warn, took)
				}
			}
			after = append(after, c.Name(group)+" "+took)
		}
		if after == nil {
			after = []string{c.Text(console.Dim, "nobody listens")}
		}
		lines = append(lines, line{at: e.at, cells: []string{
			c.Text(console.Dim, d.since(e.at)), c.Name(e.source), e.typ, c.Text(console.Dim, "…"+e.key[max(0, len(e.key)-6):]),
			fmt.Sprint(e.seq), strings.Join(after, "  "),
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
