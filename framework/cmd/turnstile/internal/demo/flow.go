package demo

import (
	"context"
	"fmt"
	"slices"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
	"github.com/turnstile-go/turnstile/framework/database"
)

// listeners returns the groups that listen to each stream.
func listeners(descriptions map[string]workspace.Description) map[string][]string {
	groups := map[string][]string{}
	for _, d := range descriptions {
		for _, l := range d.Listens {
			if !slices.Contains(groups[l.Stream], l.Group) {
				groups[l.Stream] = append(groups[l.Stream], l.Group)
			}
		}
	}
	return groups
}

// flow counts where events are, cheaply enough to ask all the time.
type flow struct {
	committed int64 // events with a number
	unapplied int64 // effects that are due and have not happened, types that nobody handles included
	unsent    int64
	scheduled int64
	parked    int64
}

func (f flow) quiet() bool {
	return f.unapplied == 0 && f.unsent == 0 && f.scheduled == 0 && f.parked == 0
}

// measure takes the flow.
func measure(ctx context.Context, databases map[string]*database.DB, listeners map[string][]string) (f flow, err error) {
	type count struct {
		what, group, stream string
		n                   int64
	}
	last := map[string]int64{}      // by stream
	cursor := map[[2]string]int64{} // by group and stream
	for service, db := range databases {
		counts, err := database.QueryAll(ctx, db, func(row database.Row) (c count, err error) {
			err = row.Scan(&c.what, &c.group, &c.stream, &c.n)
			return c, err
		}, `
SELECT 'last', '', stream, SUM(last) FROM event_sequence GROUP BY stream UNION ALL
SELECT 'cursor', grp, stream, SUM(seq) FROM event_cursor GROUP BY grp, stream UNION ALL
SELECT 'unsent', '', '', COUNT(*) FROM event_outbox WHERE sent_at IS NULL UNION ALL
SELECT 'scheduled', '', '', COUNT(*) FROM event_scheduled UNION ALL
SELECT 'parked', '', '', COUNT(*) FROM event_parked`)
		if err != nil {
			return flow{}, fmt.Errorf("read the database of %s: %w", service, err)
		}
		for _, c := range counts {
			switch c.what {
			case "last":
				last[c.stream] += c.n
				f.committed += c.n
			case "cursor":
				cursor[[2]string{c.group, c.stream}] += c.n
			case "unsent":
				f.unsent += c.n
			case "scheduled":
				f.scheduled += c.n
			case "parked":
				f.parked += c.n
			}
		}
	}
	for stream, groups := range listeners {
		for _, group := range groups {
			f.unapplied += last[stream] - cursor[[2]string{group, stream}]
		}
	}
	return f, nil
}
