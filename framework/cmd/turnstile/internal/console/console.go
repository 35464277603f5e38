// Package console writes what the person at the terminal sees: the lines of all services side by side, aligned and
// coloured by service, and what the command line itself has to say.
package console

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fatih/color"
	"golang.org/x/term"
)

// Self is the name under which the command line itself speaks.
const Self = "turnstile"

// Console serializes the lines of many writers. Create it with New.
type Console struct {
	now    func() time.Time
	mu     sync.Mutex
	out    io.Writer
	colour bool
	live   bool       // lines can be written over
	room   func() int // characters in a line
	status string     // the line at the bottom that is written over, if any
	width  int
	names  map[string]int // order of appearance, which picks the colour
}

// New returns a console that writes to w. Colours are used on a terminal, unless the variable NO_COLOR is set or the
// terminal is dumb.
func New(w io.Writer) *Console {
	c := &Console{now: time.Now, out: w, names: map[string]int{}, width: len(Self)}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		c.live = os.Getenv("TERM") != "dumb"
		c.room = func() int {
			width, _, err := term.GetSize(int(f.Fd()))
			if err != nil || width <= 0 {
				return 80
			}
			return width
		}
		c.colour = c.live && os.Getenv("NO_COLOR") == ""
	}
	return c
}

// Align makes room for names and gives them their colours, in this order.
func (c *Console) Align(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range names {
		c.width = max(c.width, utf8.RuneCountInString(n))
		c.order(n)
	}
}

func (c *Console) order(name string) int {
	if _, ok := c.names[name]; !ok {
		c.names[name] = len(c.names)
	}
	return c.names[name]
}

// Style is how a piece of text looks.
type Style int

// The styles.
const (
	Plain Style = iota
	Dim
	Bold
	Good
	Warn
	Bad
	Link
)

var styles = map[Style][]color.Attribute{
	Dim:  {color.Faint},
	Bold: {color.Bold},
	Good: {color.FgGreen},
	Warn: {color.FgYellow},
	Bad:  {color.FgRed},
	Link: {color.FgCyan, color.Underline},
}

var palette = []color.Attribute{color.FgCyan, color.FgMagenta, color.FgBlue, color.FgGreen, color.FgYellow, color.FgHiCyan, color.FgHiMagenta, color.FgHiBlue}

// Text returns s in a style, or s itself where there are no colours.
func (c *Console) Text(style Style, s string) string {
	return c.paint(s, styles[style]...)
}

// Name returns s in the colour of the service it names.
func (c *Console) Name(s string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.name(s, s)
}

func (c *Console) name(name, s string) string {
	if name == Self {
		return c.paint(s, color.Bold)
	}
	return c.paint(s, palette[c.order(name)%len(palette)])
}

func (c *Console) paint(s string, attributes ...color.Attribute) string {
	if !c.colour || len(attributes) == 0 || s == "" {
		return s
	}
	p := color.New(attributes...)
	p.EnableColor()
	return p.Sprint(s)
}

// Line writes one line of a service's output; a JSON log record is rendered for reading, anything else is passed on
// without the terminal's control sequences.
func (c *Console) Line(name string, line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, at := c.render(line)
	c.write(at, name, text)
}

// Render returns what Line would write of a line, without the time and the name.
func (c *Console) Render(line []byte) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, _ := c.render(line)
	return text
}

func (c *Console) render(line []byte) (text string, at time.Time) {
	if text, at, ok := c.record(line); ok {
		return text, at
	}
	return c.printable(string(bytes.TrimRight(line, "\r"))), c.now()
}

// Say writes a line of the command line itself. Further lines in the text are indented below the first.
func (c *Console) Say(style Style, format string, args ...any) {
	c.Tell(Self, style, format, args...)
}

// Tell is Say about a service, under its name.
func (c *Console) Tell(name string, style Style, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, line := range strings.Split(text, "\n") {
		text := c.paint(line, styles[style]...)
		if i == 0 {
			c.write(c.now(), name, text)
		} else {
			c.print(strings.Repeat(" ", len(timeFormat)+c.width+2) + text)
		}
	}
}

const timeFormat = "15:04:05.000"

func (c *Console) write(at time.Time, name, text string) {
	pad := strings.Repeat(" ", max(0, c.width-utf8.RuneCountInString(name)))
	c.print(c.paint(at.Local().Format(timeFormat), color.Faint) + " " + c.name(name, name) + pad + " " + text)
}

// Print writes text as it is, with a line end.
func (c *Console) Print(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.print(text)
}

func (c *Console) print(text string) {
	// Nothing can be done about a terminal that does not take what is written to it.
	if c.status != "" {
		_, _ = io.WriteString(c.out, "\r\x1b[K"+text+"\n"+c.status)
		return
	}
	_, _ = io.WriteString(c.out, text+"\n")
}

// Status shows text below everything else, cut to one line that the next Status replaces; an empty text takes it
// away. It does nothing where output is no terminal.
func (c *Console) Status(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.live {
		return
	}
	if runes := []rune(text); len(runes) >= c.room() {
		text = string(runes[:c.room()-1]) // or it would wrap, and be more than a line
	}
	c.status = c.paint(text, color.Faint)
	_, _ = io.WriteString(c.out, "\r\x1b[K"+c.status)
}

// Table returns rows as aligned columns, indented by two spaces. Cells may be styled: their visible width counts.
func Table(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], visible(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := "  "
		for i, cell := range row {
			line += cell
			if i < len(row)-1 {
				line += strings.Repeat(" ", widths[i]-visible(cell)+3)
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// visible counts the characters of s that take up room, which styles do not.
func visible(s string) (n int) {
	for escape := false; s != ""; {
		r, size := utf8.DecodeRuneInString(s)
		s = s[size:]
		switch {
		case escape:
			escape = r != 'm'
		case r == '\x1b':
			escape = true
		default:
			n++
		}
	}
	return n
}

// printable drops what a terminal would take for commands, but keeps colours where we use them ourselves.
func (c *Console) printable(s string) string {
	var b strings.Builder
	for s != "" {
		if sgr := colourCode.FindString(s); sgr != "" {
			if c.colour {
				b.WriteString(sgr)
			}
			s = s[len(sgr):]
			continue
		}
		r, size := utf8.DecodeRuneInString(s)
		if s = s[size:]; r == '\t' || unicode.IsPrint(r) {
			b.WriteRune(r)
		}
	}
	return b.String()
}

var colourCode = regexp.MustCompile("^\x1b\\[[0-9;]*m")
