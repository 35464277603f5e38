package console

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/fatih/color"
)

// Attributes that say what the person sees anyway, or that serve machines.
var hidden = map[string]bool{"service": true, "instance": true, "service.name": true, "service.version": true, "span_id": true}

// record renders a line that log/slog's JSON handler wrote. ok is false if it is none.
func (c *Console) record(line []byte) (text string, at time.Time, ok bool) {
	if line = bytes.TrimSpace(line); len(line) < 2 || line[0] != '{' || !json.Valid(line) {
		return "", at, false
	}
	attrs, err := members(line, "")
	if err != nil {
		return "", at, false
	}
	var level, message, more, below string
	for _, a := range attrs {
		switch a.name {
		case "time":
			if at, err = time.Parse(time.RFC3339Nano, a.value); err != nil {
				return "", at, false
			}
			continue
		case "level":
			level = a.value
			continue
		case "msg":
			message = a.value
			continue
		}
		if hidden[a.name] {
			continue
		}
		if strings.Contains(a.value, "\n") { // a stack trace, say
			for _, l := range strings.Split(strings.TrimRight(a.value, "\n"), "\n") {
				below += "\n" + strings.Repeat(" ", len(timeFormat)+c.width+8) + c.paint(c.printable(l), color.Faint)
			}
			continue
		}
		value := c.printable(a.value)
		if a.text && (value == "" || strings.ContainsAny(value, " \"=")) {
			value = strconv.Quote(value)
		}
		colour := []color.Attribute{}
		if a.name == "error" || a.name == "err" {
			colour = append(colour, color.FgRed)
		}
		more += " " + c.paint(a.name+"=", color.Faint) + c.paint(value, colour...)
	}
	if level == "" || at.IsZero() {
		return "", at, false
	}
	return c.level(level) + " " + c.printable(message) + more + below, at, true
}

func (c *Console) level(level string) string {
	short := (level + "     ")[:5]
	switch {
	case strings.HasPrefix(level, "ERROR"):
		return c.paint(short, color.FgRed, color.Bold)
	case strings.HasPrefix(level, "WARN"):
		return c.paint(short, color.FgYellow)
	case strings.HasPrefix(level, "INFO"):
		return c.paint(short, color.FgGreen)
	}
	return c.paint(short, color.Faint)
}

type attr struct {
	name, value string
	text        bool // value was a string
}

// members returns the members of a JSON object in the order in which they are written, groups flattened as a.b.
func members(object []byte, prefix string) (list []attr, err error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil { // {
		return nil, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, err
		}
		name, _ := key.(string) // a member's name always is one
		switch {
		case raw[0] == '{':
			group, err := members(raw, prefix+name+".")
			if err != nil {
				return nil, err
			}
			list = append(list, group...)
		case raw[0] == '"':
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return nil, err
			}
			list = append(list, attr{name: prefix + name, value: s, text: true})
		default:
			list = append(list, attr{name: prefix + name, value: string(raw)})
		}
	}
	_, err = d.Token() // }
	return list, err
}
