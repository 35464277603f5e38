package framework

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Notice is something about a service that people should find where they look at the service, and not only in its
// log, such as that it has lost its broker. Whatever is logged, at level INFO or above, with the attribute "notice"
// is one:
//
//	s.Log.WarnContext(ctx, "no tickets are left", "notice", "SoldOut", "ticket", id)
type Notice struct {
	Time   time.Time
	Level  slog.Level
	Reason string // names it for machines, in CamelCase: the value of the attribute
	Text   string // the message with its other attributes
}

// OnNotice has fn called with every notice. It is called by whoever logs it: it must not wait, nor log.
func (s *Service) OnNotice(fn func(Notice)) {
	s.notices.Tell(func(_ context.Context, reason string, r slog.Record) {
		fn(Notice{Time: r.Time, Level: r.Level, Reason: reason, Text: sentence(r)})
	})
}

// sentence is a record as people read it.
func sentence(r slog.Record) string {
	var attrs []string
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "notice" {
			attrs = append(attrs, fmt.Sprintf("%s=%v", a.Key, a.Value))
		}
		return true
	})
	if len(attrs) == 0 {
		return r.Message
	}
	return r.Message + " (" + strings.Join(attrs, ", ") + ")"
}
