package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// letterFlags name letters.
type letterFlags struct {
	filterFlags
	yes, all bool
}

func (f *eventsFlags) redriveCommand() *cobra.Command {
	flags := &letterFlags{}
	flags.State = "dead"
	c := &cobra.Command{
		Use: "redrive [event-id]", Short: "Have dead events tried again from their first attempt", Args: cobra.MaximumNArgs(1),
		Long: "Has a dead event tried again from its first attempt; what waits behind it follows in order. It is named by its id, or by\nas much of --group, --stream, --key and --sequence as tells it from others; --all takes all dead events of a group.",
		RunE: f.letters(flags, "redrive", func(ctx context.Context, l *admin.Ledger, at admin.Letter) error { return l.Redrive(ctx, at) }),
	}
	flags.add(c, "group", "stream", "key", "sequence")
	c.Flags().BoolVar(&flags.all, "all", false, "all dead events of the group")
	c.Flags().BoolVar(&flags.yes, "yes", false, "do not ask")
	return c
}

func (f *eventsFlags) skipCommand() *cobra.Command {
	flags := &letterFlags{}
	c := &cobra.Command{
		Use: "skip [event-id]", Short: "Give a dead event or a gap up, or remove another letter", Args: cobra.MaximumNArgs(1),
		Long: "Gives a dead event or a gap up: it will have no effect in that group, ever, and the key's next events are handled. Letters\nof other kinds are removed. It is named by its id, or by as much of --group, --stream, --key, --sequence and --kind as\ntells it from others.",
		RunE: f.letters(flags, "skip", func(ctx context.Context, l *admin.Ledger, at admin.Letter) error { return l.Skip(ctx, at) }),
	}
	flags.add(c, "group", "stream", "key", "sequence")
	c.Flags().StringVar(&flags.State, "kind", "", "kind of letter: dead, gap, fork or malformed")
	c.Flags().BoolVar(&flags.yes, "yes", false, "do not ask")
	return c
}

// letters makes a RunE that does something to the letters which the flags name.
func (f *eventsFlags) letters(flags *letterFlags, verb string, do func(context.Context, *admin.Ledger, admin.Letter) error) func(*cobra.Command, []string) error {
	return run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, args []string) (*[]admin.Letter, error) {
		if len(args) == 1 {
			flags.ID = args[0]
		}
		switch {
		case flags.all && (flags.Group == "" || flags.ID != ""):
			return nil, errors.New("--all goes with --group: say whose dead events to try again")
		case !flags.all && flags.ID == "" && flags.Group == "" && flags.Stream == "" && flags.Key == "":
			return nil, errors.New("which letter? Name the event's id, or --group, --stream, --key and --sequence; 'turnstile events dead' lists them")
		}
		letters, err := gather(cmd, ledgers, &flags.filterFlags, f.now(), func(l *admin.Ledger, filter admin.Filter) ([]admin.Letter, error) {
			return l.Letters(cmd.Context(), filter)
		})
		if err != nil {
			return nil, err
		}
		// Malformed messages have no place: those of a stream are one to whoever removes them.
		found := slices.CompactFunc(*letters, func(a, b admin.Letter) bool { return a.String() == b.String() && a.Service == b.Service })
		switch {
		case len(found) == 0:
			return nil, fmt.Errorf("there is no such %sletter in the ledgers of %s; 'turnstile events dead' lists what there is, and 'parked' what waits", kindWord(flags.State), serviceNames(ledgers))
		case len(found) > 1 && !flags.all:
			return nil, fmt.Errorf("%s are like that; name one by --group, --stream, --key, --sequence or --kind:\n  %s", count(len(found), "letter"), strings.Join(listed(found), "\n  "))
		}
		what := "the " + found[0].String()
		if flags.all {
			what = fmt.Sprintf("%s of group %s", count(len(found), "dead event"), flags.Group)
		}
		if err := confirm(cmd, flags.yes, "%s %s in the ledger of %s", verb, what, found[0].Service); err != nil {
			return nil, err
		}
		done := []admin.Letter{}
		for _, at := range found {
			i := slices.IndexFunc(ledgers, func(l *admin.Ledger) bool { return l.Service() == at.Service })
			if e := do(cmd.Context(), ledgers[i], at); e != nil {
				err = errors.Join(err, e)
				continue
			}
			done = append(done, at)
		}
		return &done, err
	}, func(w *table, done *[]admin.Letter) {
		for _, at := range *done {
			if at.Key == "" { // it has no place
				w.line("%s: %s, what was %s for group %s: done", verb, at.Stream, at.Kind, at.Group)
				continue
			}
			w.line("%s: %s %s number %d of group %s: done", verb, at.Stream, at.Key, at.Sequence, at.Group)
		}
	})
}

func kindWord(kind string) string {
	if kind == "" {
		return ""
	}
	return kind + " "
}

func listed(letters []admin.Letter) (lines []string) {
	for i, l := range letters {
		if i == 10 {
			return append(lines, fmt.Sprintf("… and %d more", len(letters)-i))
		}
		lines = append(lines, l.String())
	}
	return lines
}

func (f *eventsFlags) replayCommand() *cobra.Command {
	flags := &filterFlags{}
	var yes bool
	c := &cobra.Command{
		Use: "replay", Short: "Have a service send events again that a broker may have lost", Args: cobra.NoArgs,
		Long: `Has a service send again what it committed to a stream since a time, as far as its archive has it (EVENT_ARCHIVE). Groups
that have an event already drop it as a duplicate. A process of the service must be running. Events go back into the outbox
a thousand at a time, so that new ones come between; after Ctrl-C, those that are in it are still sent.`,
		RunE: run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, _ []string) (*admin.Progress, error) {
			filter, err := flags.filter(f.now())
			if err != nil {
				return nil, err
			}
			if filter.Stream == "" || filter.Since.IsZero() {
				return nil, errors.New("name the --stream, and from when on with --since")
			}
			l, err := producer(cmd, ledgers, filter.Stream)
			if err != nil {
				return nil, err
			}
			return f.replay(cmd, l, filter, yes)
		}, func(w *table, p *admin.Progress) {
			if p.Total == 0 {
				w.line("replay: nothing to send again: what was committed from then on is still in the outbox, or not in the archive any more")
				return
			}
			w.line("replay: %d of %s put into the outbox again, %d not sent yet", p.Marked, count(p.Total, "event"), p.Unsent)
		}),
	}
	flags.add(c, "stream", "key", "since")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// producer returns the ledger of whoever publishes the stream.
func producer(cmd *cobra.Command, ledgers []*admin.Ledger, stream string) (*admin.Ledger, error) {
	var found []*admin.Ledger
	for _, l := range ledgers {
		events, err := l.Events(cmd.Context(), admin.Filter{Stream: stream, Limit: 1})
		if err != nil {
			return nil, err
		}
		if len(events) > 0 {
			found = append(found, l)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no outbox of %s has events of the stream %s", serviceNames(ledgers), stream)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%s have events of the stream %s: name one", serviceNames(found), stream)
}

// replay asks, once it is known how many events there are, and shows how far it is.
func (f *eventsFlags) replay(cmd *cobra.Command, l *admin.Ledger, filter admin.Filter, yes bool) (*admin.Progress, error) {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	status := console.New(cmd.ErrOrStderr())
	asked, began, drained := false, f.now(), f.now()
	p, err := l.Replay(ctx, filter, func(p admin.Progress) {
		if !asked {
			asked = true
			if p.Total == 0 {
				return
			}
			if err := confirm(cmd, yes, "send %s of %s, committed since %s, again from the outbox of %s",
				count(p.Total, "event"), filter.Stream, filter.Since.Local().Format(time.DateTime), l.Service()); err != nil {
				cancel(err)
			}
			return
		}
		if p.Unsent == 0 {
			drained = f.now()
		}
		text := fmt.Sprintf("  %d of %d put into the outbox, %d not sent yet, %s", p.Marked, p.Total, p.Unsent, span(f.now().Sub(began)))
		if waits := f.now().Sub(drained); waits > 10*time.Second {
			text += fmt.Sprintf("; nothing was finished for %s: is %s connected to its broker?", span(waits), l.Service())
		}
		status.Status(text)
	})
	status.Status("")
	switch {
	case ctx.Err() != nil && cmd.Context().Err() == nil:
		return nil, context.Cause(ctx) // the answer was no
	case cmd.Context().Err() != nil:
		if p.Marked == 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "stopped: nothing was changed")
		} else {
			fmt.Fprintf(cmd.ErrOrStderr(), "stopped: %d of %s are in the outbox again and will be sent; the others were left alone\n", p.Marked, count(p.Total, "event"))
		}
		return nil, errInterrupted
	case err != nil:
		return nil, err
	}
	return &p, nil
}
