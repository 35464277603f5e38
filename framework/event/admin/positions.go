package admin

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// positions are how far a ledger's producer and groups are, and its processes.
type positions struct {
	Service       string            `json:"service"`
	Sequences     []sequence        `json:"sequences"`
	Cursors       []cursor          `json:"cursors"`
	Subscriptions []subscription    `json:"subscriptions"`
	Aside         []groupPlace      `json:"aside"`
	Brokers       []broker          `json:"brokers"`
	Needed        map[string][]need `json:"needed"` // by broker
	Processes     []Process         `json:"processes"`
}

// need is how far a group must have come in a key before it can do without the
// other brokers.
type need struct {
	Stream string `json:"stream"`
	Key    string `json:"key"`
	Number int64  `json:"number"`
}

// Process is a process of a service that runs, or has run within the last
// minute.
type Process struct {
	Service string    `json:"service"`
	Name    string    `json:"name"`
	Brokers []string  `json:"brokers"` // that it uses, sorted
	Started time.Time `json:"started"`
	Seen    time.Time `json:"seen"`
}

// alive is how long ago a process that runs was seen at most.
const alive = time.Minute

// brokerMargin is how long after it joined a broker is not counted on: relays
// of other processes may have marked events sent that it does not have.
const brokerMargin = 30 * time.Second

// positions reads the groups before the producer: no group is ahead of what is
// read after it.
func (l *local) positions(ctx context.Context) (*positions, error) {
	p := &positions{Service: l.service, Needed: map[string][]need{}}
	r := reader{ctx: ctx, db: l.db}
	p.Cursors = read(&r, scanCursor, `SELECT grp, stream, key, seq, event_id FROM event_cursor`, where{}, "")
	p.Aside = read(&r, func(row database.Row) (a groupPlace, err error) {
		err = row.Scan(&a.Group, &a.Stream, &a.Key, &a.Sequence)
		return a, err
	}, `SELECT grp, stream, key, seq FROM event_parked`, where{}, "")
	p.Subscriptions = read(&r, scanSubscription, `SELECT grp, stream, since FROM event_subscription`, where{}, ` ORDER BY grp, stream`)
	p.Sequences = read(&r, scanSequence, `SELECT stream, key, last, at FROM event_sequence`, where{}, ` ORDER BY stream, key`)
	p.Brokers = read(&r, scanBroker, `SELECT broker, since, missing_since FROM event_broker`, where{}, ` ORDER BY broker`)
	var live where
	live.is("seen_at >= $", time.Now().Add(-alive))
	p.Processes = read(&r, func(row database.Row) (Process, error) {
		process := Process{Service: l.service}
		var brokers string
		err := row.Scan(&process.Name, &brokers, micros{&process.Started}, micros{&process.Seen})
		process.Brokers = strings.Split(brokers, "+")
		return process, err
	}, `SELECT process, brokers, started_at, seen_at FROM event_process`, live, ` ORDER BY process`)
	for _, b := range p.Brokers {
		var late where
		late.is("(sent_at >= $ OR sent_at IS NULL)", b.Since.Add(brokerMargin))
		p.Needed[b.Name] = read(&r, func(row database.Row) (n need, err error) {
			err = row.Scan(&n.Stream, &n.Key, &n.Number)
			return n, err
		}, `
SELECT s.stream, s.key, coalesce(o.seq, s.last + 1) - 1 FROM event_sequence s
LEFT JOIN (SELECT stream, key, min(seq) AS seq FROM event_outbox`+late.String()+` GROUP BY stream, key) o
ON o.stream = s.stream AND o.key = s.key`, where{args: late.args}, ` ORDER BY s.stream, s.key`)
	}
	return p, r.err
}

// committed returns the events in these places, without what is not there any
// more.
func (l *local) committed(ctx context.Context, places []place) ([]Event, error) {
	arg, err := json.Marshal(places)
	if err != nil {
		return nil, err
	}
	rows := `(SELECT value->>'stream' AS stream, value->>'key' AS key, value->>'sequence' AS sequence FROM json_each($1)) AS t`
	if l.db.Dialect() == database.Postgres {
		rows = `json_to_recordset($1::text::json) AS t(stream text, key text, sequence bigint)`
	}
	return database.QueryAll(ctx, l.db, l.scanEvent, `
SELECT o.stream, o.key, o.seq, o.event_id, o.type, o.at, o.sent_at, ''
FROM `+rows+` JOIN event_outbox o ON o.stream = t.stream AND o.key = t.key AND o.seq = t.sequence`, string(arg))
}
