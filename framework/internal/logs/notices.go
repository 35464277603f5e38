package logs

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// noticeKey is the attribute of a record that is more than a line in a log.
const noticeKey = "notice"

// Notice makes a record a notice: something about the service that people should find where they look at the
// service. The reason names it for machines, in CamelCase, such as BrokerLost.
func Notice(reason string) slog.Attr { return slog.String(noticeKey, reason) }

// Notices hands on the records that are notices. The zero value hands them to nobody.
type Notices struct {
	mu   sync.RWMutex
	told []func(reason, text string, r slog.Record)
}

// Tell has fn called with every notice from now on, by whoever logs it: it must not wait, nor log. The text is what
// the record says, with its other attributes, but for the number of the attempt and the time until the next.
func (n *Notices) Tell(fn func(reason, text string, r slog.Record)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, fn)
}

// noticed hands on notices, whatever the level of the log behind it, down to INFO.
type noticed struct {
	slog.Handler
	notices *Notices
}

func (h noticed) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.Handler.Enabled(ctx, level)
}

func (h noticed) Handle(ctx context.Context, r slog.Record) error {
	if reason := reasonOf(r); reason != "" {
		text := textOf(r)
		h.notices.mu.RLock()
		for _, tell := range h.notices.told {
			tell(reason, text, r)
		}
		h.notices.mu.RUnlock()
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// reasonOf returns why a record is a notice, empty if it is none.
func reasonOf(r slog.Record) (reason string) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == noticeKey {
			reason = a.Value.String()
		}
		return reason == ""
	})
	return reason
}

// textOf is a notice as people read it.
func textOf(r slog.Record) string {
	var others []string
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case noticeKey:
		case "attempt", "in": // with what differs at every try, it would never be the same notice again
		default:
			others = append(others, fmt.Sprintf("%s=%v", a.Key, a.Value))
		}
		return true
	})
	if len(others) == 0 {
		return r.Message
	}
	return r.Message + " (" + strings.Join(others, ", ") + ")"
}

func (h noticed) WithAttrs(attrs []slog.Attr) slog.Handler {
	return noticed{h.Handler.WithAttrs(attrs), h.notices}
}

func (h noticed) WithGroup(name string) slog.Handler {
	return noticed{h.Handler.WithGroup(name), h.notices}
}
