package framework

import (
	"log/slog"
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
	Text   string // the message with its other attributes, but for "attempt" and "in", so that a failure is told in the same words again
}

// OnNotice has fn called with every notice. It is called by whoever logs it: it must not wait, nor log.
func (s *Service) OnNotice(fn func(Notice)) {
	s.notices.Tell(func(reason, text string, r slog.Record) {
		fn(Notice{Time: r.Time, Level: r.Level, Reason: reason, Text: text})
	})
}
