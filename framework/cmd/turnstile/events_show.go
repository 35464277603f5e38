package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// filterFlags are those of a Filter that a command offers.
type filterFlags struct {
	admin.Filter
	since string
}

func (f *filterFlags) add(c *cobra.Command, names ...string) {
	for _, name := range names {
		switch name {
		case "group":
			c.Flags().StringVar(&f.Group, name, "", "listener group")
		case "stream":
			c.Flags().StringVar(&f.Stream, name, "", "stream")
		case "key":
			c.Flags().StringVar(&f.Key, name, "", "key")
		case "sequence":
			c.Flags().Int64Var(&f.Sequence, name, 0, "number in the key")
		case "type":
			c.Flags().StringVar(&f.Type, name, "", "type of event")
		case "since":
			c.Flags().StringVar(&f.since, name, "", "from then on: how long ago, as in 1h, or a time (RFC 3339)")
		case "limit":
			c.Flags().IntVar(&f.Limit, name, 50, "how many at most; 0 for all")
		}
	}
}

// filter is what the flags say.
func (f *filterFlags) filter(now time.Time) (admin.Filter, error) {
	filter := f.Filter
	if filter.Limit < 0 || filter.Sequence < 0 {
		return filter, errors.New("a limit and a number must not be negative")
	}
	var err error
	filter.Since, err = moment(f.since, now)
	return filter, err
}

// gather asks every ledger with the filter, and puts the answers together.
func gather[T any](cmd *cobra.Command, ledgers []*admin.Ledger, flags *filterFlags, now time.Time, ask func(*admin.Ledger, admin.Filter) ([]T, error)) (*[]T, error) {
	f, err := flags.filter(now)
	if err != nil {
		return nil, err
	}
	all := []T{}
	for _, l := range ledgers {
		some, err := ask(l, f)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return &all, nil
}

func (f *eventsFlags) listCommand() *cobra.Command {
	flags := &filterFlags{}
	c := &cobra.Command{
		Use: "ls", Short: "List committed and scheduled events, the newest last", Args: cobra.NoArgs,
		Long: "Lists the events that services have committed (unsent: not with a broker yet; sent: kept in the archive) and those that\nare scheduled, which get their number when they are due.",
		RunE: run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, _ []string) (*[]admin.Event, error) {
			events, err := gather(cmd, ledgers, flags, f.now(), func(l *admin.Ledger, filter admin.Filter) ([]admin.Event, error) {
				return l.Events(cmd.Context(), filter)
			})
			if err != nil {
				return nil, err
			}
			slices.SortStableFunc(*events, func(a, b admin.Event) int { return moments(a).Compare(moments(b)) })
			return events, nil
		}, func(w *table, events *[]admin.Event) {
			if len(*events) == 0 {
				w.line("no events")
				return
			}
			w.header("AGE", "SERVICE", "STREAM", "KEY", "NO.", "STATE", "TYPE")
			for _, e := range *events {
				number := fmt.Sprint(e.Sequence)
				if e.State == "scheduled" {
					number = "-"
				}
				w.row(w.age(moments(e)), e.Service, e.Stream, e.Key, number, e.State, e.Type)
			}
			w.flush()
			if flags.Limit > 0 && len(*events) >= flags.Limit {
				w.line("%s", w.c.Text(console.Dim, fmt.Sprintf("the newest %d of each service; --limit 0 shows all", flags.Limit)))
			}
		}),
	}
	flags.add(c, "stream", "key", "type", "since", "limit")
	c.Flags().StringVar(&flags.State, "state", "", "unsent, sent or scheduled")
	return c
}

// moments is when an event was committed, or will be.
func moments(e admin.Event) time.Time {
	if e.At.IsZero() {
		return e.Due
	}
	return e.At
}

func (f *eventsFlags) showCommand() *cobra.Command {
	flags := &filterFlags{}
	c := &cobra.Command{
		Use: "show [event-id]", Short: "Show one event with its message", Args: cobra.MaximumNArgs(1),
		Long: "Shows an event as its producer committed it, with the message. It is named by its id, or by --stream, --key and\n--sequence.",
		RunE: run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, args []string) (*admin.Event, error) {
			if len(args) == 1 {
				flags.ID = args[0]
			} else if flags.Key == "" || flags.Sequence == 0 {
				return nil, errors.New("which event? Name its id, or --stream, --key and --sequence; 'turnstile events ls' lists them")
			}
			flags.Body = true
			events, err := gather(cmd, ledgers, flags, f.now(), func(l *admin.Ledger, filter admin.Filter) ([]admin.Event, error) {
				return l.Events(cmd.Context(), filter)
			})
			if err != nil {
				return nil, err
			}
			switch len(*events) {
			case 0:
				return nil, fmt.Errorf("no outbox of %s has that event; 'turnstile events trace' may know more", serviceNames(ledgers))
			case 1:
				return &(*events)[0], nil
			}
			return nil, fmt.Errorf("%s are like that: name the stream, too", count(len(*events), "event"))
		}, func(w *table, e *admin.Event) {
			w.row("id", e.ID)
			w.row("type", e.Type)
			w.row("service", e.Service)
			w.row("stream", e.Stream)
			w.row("key", e.Key)
			if e.State == "scheduled" {
				w.row("due", e.Due.Local().Format(time.RFC3339Nano)+", "+w.age(e.Due))
			} else {
				w.row("number", e.Sequence)
				w.row("committed", e.At.Local().Format(time.RFC3339Nano)+", "+w.age(e.At)+" ago")
			}
			if !e.Sent.IsZero() {
				w.row("sent", e.Sent.Local().Format(time.RFC3339Nano)+", "+w.age(e.Sent)+" ago")
			}
			w.row("state", e.State)
			w.flush()
			var pretty bytes.Buffer
			if json.Indent(&pretty, []byte(e.Body), "", "  ") != nil {
				pretty.Reset()
				pretty.WriteString(e.Body)
			}
			w.line("\n%s", pretty.String())
		}),
	}
	flags.add(c, "stream", "key", "sequence")
	return c
}

func serviceNames(ledgers []*admin.Ledger) string {
	var names []string
	for _, l := range ledgers {
		names = append(names, l.Service())
	}
	return strings.Join(names, ", ")
}

func (f *eventsFlags) traceCommand() *cobra.Command {
	flags := &filterFlags{}
	c := &cobra.Command{
		Use: "trace [event-id or key]", Short: "Follow an event from commit to effect, through all services", Args: cobra.MaximumNArgs(1),
		Long: "Follows an event, or all of a key, from the commit through relay and brokers to the effect in every listener group, with\nevery attempt that failed and what operators did. Times of effects are known where EVENT_JOURNAL is on.",
		RunE: run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, args []string) (*[]admin.Path, error) {
			filter, err := flags.filter(f.now())
			if err != nil {
				return nil, err
			}
			if len(args) == 0 && filter.Key == "" {
				return nil, errors.New("which event? Name its id or its key")
			}
			if len(args) == 1 {
				byID := filter
				byID.ID = args[0]
				paths, err := admin.Trace(cmd.Context(), ledgers, byID)
				if !errors.Is(err, admin.ErrUnknown) {
					return pointer(paths, err)
				}
				filter.Key = args[0]
			}
			return pointer(admin.Trace(cmd.Context(), ledgers, filter))
		}, func(w *table, paths *[]admin.Path) {
			for i, p := range *paths {
				if i > 0 {
					w.line("")
				}
				printPath(w, "", p)
			}
		}),
	}
	flags.add(c, "stream", "key", "sequence", "since", "limit")
	return c
}

func pointer[T any](v T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// printPath shows the history of an event.
func printPath(w *table, indent string, p admin.Path) {
	number := fmt.Sprintf("number %d", p.Sequence)
	if p.Sequence == 0 {
		number = "without a number yet"
	}
	w.line("%s%s  %s %s %s  %s", indent, w.c.Text(console.Bold, cmp.Or(p.Type, "event")), p.Stream, p.Key, number, w.c.Text(console.Dim, p.ID))
	var start time.Time
	w.wrap = true
	for _, s := range p.Steps {
		at := "time not recorded"
		switch {
		case s.At.IsZero():
		case start.IsZero():
			start = s.At
			at = s.At.Local().Format("2006-01-02 15:04:05.000")
		default:
			at = fmt.Sprintf("%23s", "+"+exact(s.At.Sub(start)))
		}
		w.row(indent+"  "+at, cmp.Or(s.Group, s.Service, "?"), s.Text)
	}
	w.flush()
	for _, g := range p.Groups {
		state := g.State
		switch g.State {
		case "dead", "missing":
			state = w.c.Text(console.Bad, state)
		case "retry", "early", "waiting", "skipped":
			state = w.c.Text(console.Warn, state)
		default:
			state = w.c.Text(console.Good, state)
		}
		w.line("%s  → %s: %s%s", indent, g.Group, state, cut(", "+g.Text, w.width-len(indent)-len(g.Group)-len(g.State)-6))
	}
}

// exact writes the time between two steps.
func exact(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.3fs", d.Seconds())
	}
	return span(d)
}

func (f *eventsFlags) deadCommand() *cobra.Command {
	flags := &filterFlags{}
	c := &cobra.Command{
		Use: "dead", Short: "List dead letters, oldest first", Args: cobra.NoArgs,
		Long: `Lists what listener groups cannot deal with by themselves, oldest first:
  dead       every attempt failed; the key's later events wait behind it (redrive or skip)
  gap        a number of the key does not arrive (have its producer replay it, or skip)
  fork       a producer gave a number out twice, as after a restored backup (skip removes the letter)
  malformed  a message that is no event (skip removes the letter)`,
		RunE: run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, _ []string) (*[]admin.Letter, error) {
			letters, err := gather(cmd, ledgers, flags, f.now(), func(l *admin.Ledger, filter admin.Filter) ([]admin.Letter, error) {
				return l.Letters(cmd.Context(), filter)
			})
			if err != nil {
				return nil, err
			}
			slices.SortStableFunc(*letters, func(a, b admin.Letter) int { return a.At.Compare(b.At) })
			return letters, nil
		}, func(w *table, letters *[]admin.Letter) {
			if len(*letters) == 0 {
				w.line("no dead letters")
				return
			}
			printLetters(w, *letters)
		}),
	}
	flags.add(c, "group", "stream", "key", "since")
	c.Flags().StringVar(&flags.State, "kind", "", "dead, gap, fork or malformed")
	return c
}

func printLetters(w *table, letters []admin.Letter) {
	w.header("KIND", "GROUP", "STREAM", "KEY", "NO.", "TRIES", "AGE", "ERROR")
	for _, l := range letters {
		w.row(l.Kind, l.Group, l.Stream, cmp.Or(l.Key, "-"), l.Sequence, l.Attempts, w.age(l.At), l.Error)
	}
	w.flush()
}

func (f *eventsFlags) parkedCommand() *cobra.Command {
	flags := &filterFlags{}
	c := &cobra.Command{
		Use: "parked", Short: "List the keys in which events wait, and why", Args: cobra.NoArgs,
		Long: "Lists, per listener group, the keys in which events are put aside, those that have waited for longest first: the number\nthat holds the key up, how many events wait with it, and for what.",
		RunE: run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, _ []string) (*[]admin.Parked, error) {
			parked, err := gather(cmd, ledgers, flags, f.now(), func(l *admin.Ledger, filter admin.Filter) ([]admin.Parked, error) {
				return l.Parked(cmd.Context(), filter)
			})
			if err != nil {
				return nil, err
			}
			slices.SortStableFunc(*parked, func(a, b admin.Parked) int { return a.Oldest.Compare(b.Oldest) })
			return parked, nil
		}, func(w *table, parked *[]admin.Parked) {
			if len(*parked) == 0 {
				w.line("nothing waits")
				return
			}
			w.header("GROUP", "STREAM", "KEY", "NO.", "EVENTS", "OLDEST", "WHY")
			for _, p := range *parked {
				w.row(p.Group, p.Stream, p.Key, p.Sequence, p.Events, w.age(p.Oldest), w.why(p))
			}
			w.flush()
		}),
	}
	flags.add(c, "group", "stream", "key", "limit")
	c.Flags().StringVar(&flags.State, "state", "", "of the number that holds the key up: retry, dead, early or missing")
	return c
}

// why says what a key waits for.
func (t *table) why(p admin.Parked) string {
	switch p.State {
	case "dead":
		return fmt.Sprintf("dead after %s: %s", count(p.Attempts, "attempt"), p.Error)
	case "retry":
		return fmt.Sprintf("attempt %d %s: %s", p.Attempts+1, cmp.Or(strings.TrimPrefix(t.due(p.Next), "-"), "now"), p.Error)
	case "missing":
		return "it has not arrived"
	}
	return "about to be handled"
}

// due is when something is to happen.
func (t *table) due(at time.Time) string {
	if !at.After(t.now) {
		return "now"
	}
	return t.age(at)
}

func (f *eventsFlags) lagCommand() *cobra.Command {
	flags := &filterFlags{}
	c := &cobra.Command{
		Use: "lag", Short: "Show how far listener groups are behind", Args: cobra.NoArgs,
		Long: "Compares what was committed with how far every listener group is, by stream, and names the keys that have been behind for\nlongest. It needs the ledgers of the producers and the listeners.",
		RunE: run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, _ []string) (*[]admin.GroupLag, error) {
			filter, err := flags.filter(f.now())
			if err != nil {
				return nil, err
			}
			return pointer(admin.Lag(cmd.Context(), ledgers, filter))
		}, func(w *table, lags *[]admin.GroupLag) {
			if len(*lags) == 0 {
				w.line("no group listens to a stream of these services")
				return
			}
			w.header("GROUP", "STREAM", "BEHIND", "KEYS", "OLDEST")
			behind := false
			for _, l := range *lags {
				w.row(l.Group, l.Stream, l.Events, l.Keys, w.age(l.Oldest))
				behind = behind || l.Keys > 0
			}
			w.flush()
			if !behind {
				return
			}
			w.line("")
			w.header("GROUP", "STREAM", "KEY", "APPLIED", "COMMITTED", "PUT ASIDE", "OLDEST")
			for _, l := range *lags {
				for _, k := range l.Top {
					w.row(l.Group, l.Stream, k.Key, k.Applied, k.Committed, k.Aside, w.age(k.Oldest))
				}
			}
			w.flush()
		}),
	}
	flags.add(c, "group", "stream", "key")
	c.Flags().IntVar(&flags.Limit, "limit", 10, "how many keys to name of each group and stream; 0 for all")
	return c
}

func (f *eventsFlags) auditCommand() *cobra.Command {
	flags := &filterFlags{}
	c := &cobra.Command{
		Use: "audit", Short: "Prove that every event took effect exactly once, in order", Args: cobra.NoArgs,
		Long: `Compares all ledgers: every committed event must have had its effect exactly once in every group that handles its type,
those of a key in order. Services may run meanwhile: what is on its way is counted as waiting. Effects are known from the
journal (EVENT_JOURNAL, which 'turnstile dev' turns on); without one only the cursors are compared. What was pruned from
an archive counts as lost unless --since is later. Exits with 1 if anything is lost, duplicated, out of order or wrong.`,
		RunE: run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, _ []string) (*admin.Report, error) {
			filter, err := flags.filter(f.now())
			if err != nil {
				return nil, err
			}
			r, err := admin.Audit(cmd.Context(), ledgers, filter.Since)
			if err == nil && !r.OK() {
				err = fmt.Errorf("the audit found what should not be; if there are other services than %s, give it their ledgers, too", serviceNames(ledgers))
			}
			return r, err
		}, printReport),
	}
	flags.add(c, "since")
	return c
}

func printReport(w *table, r *admin.Report) {
	for _, sort := range []struct {
		name string
		list []admin.Finding
	}{{"lost", r.Lost}, {"duplicated", r.Duplicated}, {"misordered", r.Misordered}, {"wrong", r.Other}, {"waiting", r.Waiting}} {
		for i, finding := range sort.list {
			if i == 10 {
				w.line("%s: and %d more (-o json has all)", sort.name, len(sort.list)-i)
				break
			}
			w.line("%s: %s", sort.name, finding)
			if finding.Path != nil && sort.name != "waiting" {
				printPath(w, "  ", *finding.Path)
			}
		}
	}
	w.line("events=%d effects=%d skipped=%d unsent=%d scheduled=%d waiting=%d lost=%d duplicated=%d misordered=%d wrong=%d p50=%s p99=%s",
		r.Events, r.Effects, r.Skipped, r.Unsent, r.Scheduled, len(r.Waiting), len(r.Lost), len(r.Duplicated), len(r.Misordered), len(r.Other),
		r.P50.Round(time.Millisecond/10), r.P99.Round(time.Millisecond/10))
}

// errWait says that broker-status is for waiting. The exit code does, too.
var errWait = errors.New("wait")

func (f *eventsFlags) brokerStatusCommand() *cobra.Command {
	var to, step string
	c := &cobra.Command{
		Use: "broker-status", Short: "Say how far a move between brokers is, and whether the next step is safe", Args: cobra.NoArgs,
		Long: `Says which brokers every process uses, what each broker lacks, and whether the next step of a move is safe. The steps:
  settled  all use one broker
  joining  services are being restarted with BROKER=old+new
  joined   all use both; when safe, services may be restarted with BROKER=new
  leaving  services are being restarted with BROKER=new
  left     nobody uses the old one; when safe, it may be stopped
Give the ledgers of all services. Exits with 0 if the next step is safe and with 3 if it is to be waited for; with --step
it is 0 only at that step, so that a script knows which of the two it is.`,
		RunE: run(f, func(cmd *cobra.Command, ledgers []*admin.Ledger, _ []string) (*admin.Move, error) {
			steps := []string{"settled", "joining", "joined", "leaving", "left"}
			if step != "" && !slices.Contains(steps, step) {
				return nil, fmt.Errorf("--step %s: want %s", step, strings.Join(steps, ", "))
			}
			m, err := admin.Brokers(cmd.Context(), ledgers, to)
			if err == nil && (!m.Safe || step != "" && m.Step != step) {
				err = errWait
			}
			return m, err
		}, printMove),
	}
	c.Flags().StringVar(&to, "to", "", "the broker to move to; without it, the one that joined last")
	c.Flags().StringVar(&step, "step", "", "the step to be at for exit code 0")
	return c
}

func printMove(w *table, m *admin.Move) {
	verdict := w.c.Text(console.Good, "safe")
	if !m.Safe {
		verdict = w.c.Text(console.Warn, "wait")
	}
	where := "on the way to"
	if m.Step == "settled" {
		where = "with"
	}
	w.line("%s, %s %s: %s", m.Step, where, m.To, verdict)
	w.line("%s", strings.ReplaceAll(m.Next, ". ", ".\n"))
	for _, o := range m.Missing {
		w.line("  - %s", o.Text)
	}
	w.line("")
	w.header("SERVICE", "PROCESS", "USES", "UP", "SEEN")
	for _, p := range m.Processes {
		w.row(p.Service, p.Name, strings.Join(p.Brokers, "+"), w.age(p.Started), w.age(p.Seen))
	}
	w.flush()
	w.line("")
	w.header("SERVICE", "BROKER", "PROCESSES", "SINCE", "LACKS")
	for _, u := range m.Brokers {
		lacks := "nothing"
		switch {
		case u.Processes == 0:
			lacks = "(not used)"
		case !u.MissingSince.IsZero():
			lacks = "maybe what was sent in the last " + w.age(u.MissingSince)
		}
		w.row(u.Service, u.Broker, u.Processes, w.age(u.Since), lacks)
	}
	w.flush()
}
