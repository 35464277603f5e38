package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
)

// table writes for people: lines, and rows in aligned columns of which the last is cut, or wrapped, to what the terminal
// has room for.
type table struct {
	out   io.Writer
	c     *console.Console // for colours
	now   time.Time
	width int
	head  bool // the first row is a header
	wrap  bool // the last column is wrapped, not cut
	rows  [][]string
	err   error
}

// usualWidth is the width where there is no terminal.
const usualWidth = 120

func newTable(out io.Writer, now time.Time) *table {
	t := &table{out: out, c: console.New(out), now: now, width: usualWidth}
	if f, ok := out.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 40 {
			t.width = width
		}
	}
	return t
}

// line writes a line.
func (t *table) line(format string, args ...any) {
	if _, err := fmt.Fprintf(t.out, format+"\n", args...); err != nil && t.err == nil {
		t.err = err
	}
}

// header begins rows with their header.
func (t *table) header(cells ...string) {
	t.head, t.rows = true, [][]string{cells}
}

// row adds a row.
func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	t.rows = append(t.rows, row)
}

// flush writes the rows.
func (t *table) flush() {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range t.rows {
		var b strings.Builder
		left := 0 // characters before the last column
		for i, cell := range row[:len(row)-1] {
			b.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			left += widths[i] + 2
		}
		room, last := max(t.width-left, 16), row[len(row)-1]
		if t.wrap {
			b.WriteString(strings.Join(wrapped(last, room), "\n"+strings.Repeat(" ", left)))
		} else {
			b.WriteString(cut(last, room))
		}
		text := strings.TrimRight(b.String(), " ")
		if n == 0 && t.head {
			text = t.c.Text(console.Dim, text)
		}
		t.line("%s", text)
	}
	t.head, t.wrap, t.rows = false, false, nil
}

// wrapped breaks a text into lines of at most so many characters, between words if they are not longer.
func wrapped(s string, room int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(s) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= room:
			line += " " + word
			continue
		default:
			lines = append(lines, line)
			line = word
		}
		for utf8.RuneCountInString(line) > room {
			lines = append(lines, string([]rune(line)[:room]))
			line = string([]rune(line)[room:])
		}
	}
	return append(lines, line)
}

// cut shortens a text to one line of so many characters.
func cut(s string, room int) string {
	s, _, _ = strings.Cut(s, "\n")
	if utf8.RuneCountInString(s) <= room {
		return s
	}
	return string([]rune(s)[:room-1]) + "…"
}

// age is how long ago a time is, or how long until then.
func (t *table) age(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	if d := t.now.Sub(at); d >= 0 {
		return span(d)
	}
	return "in " + span(at.Sub(t.now))
}

// span writes a duration in its two largest units.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
