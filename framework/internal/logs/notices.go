package logs

import (
	"context"
	"log/slog"
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
	told []func(ctx context.Context, reason string, r slog.Record)
}

// Tell has fn called with every notice from now on, by whoever logs it: it must not wait, nor log.
func (n *Notices) Tell(fn func(ctx context.Context, reason string, r slog.Record)) {
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
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != noticeKey {
			return true
		}
		h.notices.mu.RLock()
		defer h.notices.mu.RUnlock()
		for _, tell := range h.notices.told {
			tell(ctx, a.Value.String(), r)
		}
		return false
	})
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h noticed) WithAttrs(attrs []slog.Attr) slog.Handler {
	return noticed{h.Handler.WithAttrs(attrs), h.notices}
}

func (h noticed) WithGroup(name string) slog.Handler {
	return noticed{h.Handler.WithGroup(name), h.notices}
}
