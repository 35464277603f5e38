package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// settle waits until everything is quiet: every event has had its effects, and the business is settled. It returns what
// is not, if that takes too long.
//
// What was sent in the last seconds before a broker lost its messages, the services send again by themselves. Whoever
// could not listen for longer than that has lost what was sent before, and an operator has to have it sent again. If
// nothing arrives any more, and all that keys wait for is that old, we are that operator.
func (c *chaos) settle(ctx context.Context) error {
	began := time.Now()
	told, moved, helped, last := began, began, false, ""
	for {
		asked := time.Now()
		report, business, err := c.look(ctx)
		now, what := err, ""
		if err == nil {
			if what = restless(report, business); what == "" {
				what = strings.Join(c.fleet.Ailing(ctx), "; ")
			}
			if what == "" {
				c.say("quiet after %v", time.Since(began).Round(100*time.Millisecond))
				return nil
			}
			now = fmt.Errorf("not quiet: %s%s", what, waiting(report))
		}
		if what != last {
			last, moved = what, time.Now()
		}
		if time.Since(told) > reporting {
			told = time.Now()
			c.say("not quiet: %s", cmp.Or(what, fmt.Sprint(err)))
		}
		switch {
		case time.Since(began) > settling || time.Since(moved) > stuck:
			return fmt.Errorf("after %v, and %v without progress: %w", time.Since(began).Round(time.Second), time.Since(moved).Round(time.Second), now)
		case !helped && err == nil && len(c.wipes) > 0 && time.Since(moved) > mending:
			helped = true
			if err := c.replay(ctx, report); err != nil {
				c.say("no replay: %v", err)
			}
		}
		time.Sleep(max(500*time.Millisecond, time.Since(asked))) // so that looking takes at most half of a processor
	}
}

// restless says what is not quiet, in numbers; nothing if all is.
func restless(report *admin.Report, business *invariants.Report) string {
	open, unsettled := business.Orders["created"], business.Count(invariants.Unsettled)
	if report.Quiet() && open == 0 && unsettled == 0 {
		return ""
	}
	return fmt.Sprintf("%d events unsent, %d scheduled, %d effects waiting, %d orders open, %d things unsettled",
		report.Unsent, report.Scheduled, len(report.Waiting), open, unsettled)
}

// waiting lists the effects that have not come.
func waiting(report *admin.Report) string {
	text := ""
	for i, f := range report.Waiting {
		if i == 20 {
			return text + "\n  …"
		}
		text += "\n  " + f.Text
	}
	return text
}

const (
	// resent is how long before a broker loses its messages those were sent, at least, that the services send again by
	// themselves. They look back for 30 seconds from when they notice; that may be as late as half of it.
	resent = 15 * time.Second

	// margin is how long before a broker loses its messages those were committed, at most, that may not have arrived.
	margin = time.Minute
)

// replay does what an operator does after a broker has lost its messages: turnstile events replay. It refuses to if a
// key waits for an event that the services should have sent again: that is not for operators to mend.
func (c *chaos) replay(ctx context.Context, report *admin.Report) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	type place struct {
		stream, key string
		seq         int64
	}
	committed, streams := map[place]time.Time{}, make([]map[string]bool, len(c.ledgers))
	for i, l := range c.ledgers {
		events, err := l.Events(ctx, admin.Filter{})
		if err != nil {
			return err
		}
		streams[i] = map[string]bool{}
		for _, e := range events {
			committed[place{e.Stream, e.Key, e.Sequence}] = e.At
			streams[i][e.Stream] = true
		}
	}
	heads := map[[3]string]int64{} // the number that a group waits for, by group, stream and key
	for _, f := range report.Waiting {
		lane := [3]string{f.Group, f.Stream, f.Key}
		if head, ok := heads[lane]; !ok || f.Sequence < head {
			heads[lane] = f.Sequence
		}
	}
	for lane, head := range heads {
		if at := committed[place{lane[1], lane[2], head}]; at.After(c.wipes[len(c.wipes)-1].Add(-resent)) {
			return fmt.Errorf("%s waits for %s %s number %d, which should have been sent again: it was committed at %s, and the last wipe was at %s",
				lane[0], lane[1], lane[2], head, at.Format(time.TimeOnly), c.wipes[len(c.wipes)-1].Format(time.TimeOnly))
		}
	}
	since := c.wipes[0].Add(-margin)
	c.say("a broker was wiped, and not everything arrives by itself. As an operator would, we replay all since %s", since.Format(time.TimeOnly))
	for i, l := range c.ledgers {
		for _, stream := range slices.Sorted(maps.Keys(streams[i])) {
			p, err := l.Replay(ctx, admin.Filter{Stream: stream, Since: since}, nil)
			if err != nil {
				return err
			}
			c.say("%d events of %s were sent again", p.Marked, stream)
		}
	}
	return nil
}
