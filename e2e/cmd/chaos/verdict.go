package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// look reads what the databases say. Everything is quiet or it is not: both halves are of about the same time.
func (c *chaos) look(ctx context.Context) (*admin.Report, *invariants.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	report, err := admin.Audit(ctx, c.ledgers, time.Time{})
	if err != nil {
		return nil, nil, err
	}
	business, err := invariants.Check(ctx, c.application(), time.Now())
	return report, business, err
}

func (c *chaos) application() invariants.Application {
	dbs := c.fleet.Databases()
	return invariants.Application{Auth: dbs["auth"], Orders: dbs["orders"], Payments: dbs["payments"], Tickets: dbs["tickets"]}
}

// check compares everything, and returns the last line. An error says what is wrong, with the history of the events.
func (c *chaos) check(ctx context.Context, unsettled error) (line string, err error) {
	report, business, err := c.look(ctx)
	if err != nil {
		return "", errors.Join(err, unsettled)
	}
	broken, err := invariants.CheckPromises(ctx, c.application(), c.load.Promises())
	if err != nil {
		return "", err
	}
	panics, err := c.fleet.Panics()
	if err != nil {
		return "", err
	}
	surprises := slices.Concat(c.load.Surprises(), panics)
	s := c.load.Stats()
	c.say("commands: %d, %s; orders: %v", s.Commands, shares(s), business.Orders)
	c.say("faults: %v", c.kinds)
	c.say("effects: %d, p50 %v, p99 %v from commit", report.Effects, report.P50.Round(time.Millisecond), report.P99.Round(time.Millisecond))

	wrong := slices.Concat(business.Violations, broken)
	business.Violations = wrong
	lost := len(report.Lost) + len(report.Waiting) + business.Count(invariants.Lost)
	other := len(report.Other) + business.Count(invariants.Divergent) + len(surprises)
	ok := unsettled == nil && report.OK() && len(wrong)+len(surprises) == 0
	verdict := "ok"
	if !ok {
		verdict = "failed"
	}
	line = fmt.Sprintf("chaos: %s faults=%d commands=%d events=%d lost=%d duplicated=%d misordered=%d doublesold=%d unsettled=%d",
		verdict, c.faults(), s.Commands, report.Events, lost, len(report.Duplicated), len(report.Misordered),
		business.Count(invariants.DoubleSold), max(business.Count(invariants.Unsettled), business.Orders["created"]))
	if ok {
		return line, nil
	}
	line += fmt.Sprintf(" other=%d", other)
	return line, errors.Join(unsettled, c.explain(ctx, report, wrong, surprises))
}

// most is how many findings of a sort are explained.
const most = 20

// explain says what was found, with the whole history of what it was found in.
func (c *chaos) explain(ctx context.Context, report *admin.Report, wrong []invariants.Violation, surprises []string) error {
	var errs []error
	for _, of := range []struct {
		sort     string
		findings []admin.Finding
	}{{"lost", report.Lost}, {"not arrived", report.Waiting}, {"duplicated", report.Duplicated}, {"misordered", report.Misordered}, {"wrong", report.Other}} {
		for i, f := range of.findings {
			if i == most {
				errs = append(errs, fmt.Errorf("%s: %d more", of.sort, len(of.findings)-most))
				break
			}
			text := of.sort + ": " + f.Text
			if f.Path != nil {
				text += history([]admin.Path{*f.Path})
			}
			errs = append(errs, errors.New(text))
		}
	}
	for i, v := range wrong {
		if i == most {
			errs = append(errs, fmt.Errorf("and %d more", len(wrong)-most))
			break
		}
		text := v.String()
		paths, err := admin.Trace(ctx, c.ledgers, admin.Filter{Stream: v.Stream, Key: v.Key})
		if err != nil {
			text += "\n  " + err.Error()
		}
		errs = append(errs, errors.New(text+history(paths)))
	}
	for _, s := range surprises {
		errs = append(errs, errors.New("surprising: "+s))
	}
	return errors.Join(errs...)
}

// history is what is known of events, line by line.
func history(paths []admin.Path) string {
	var b strings.Builder
	for _, p := range paths {
		fmt.Fprintf(&b, "\n  %s %s number %d: %s %s of %s", p.Stream, p.Key, p.Sequence, p.Type, p.ID, p.Service)
		for _, s := range p.Steps {
			at := strings.Repeat(" ", len("15:04:05.000"))
			if !s.At.IsZero() {
				at = s.At.UTC().Format("15:04:05.000")
			}
			fmt.Fprintf(&b, "\n    %s %-9s %-9s %s", at, cmp.Or(s.Group, s.Service), s.What, s.Text)
		}
		for _, g := range p.Groups {
			fmt.Fprintf(&b, "\n    %12s %-9s %-9s %s", "now", g.Group, g.State, g.Text)
		}
	}
	return b.String()
}
