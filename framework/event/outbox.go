package event

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/propagation"

	"github.com/turnstile-go/turnstile/framework/database"
)

// maxBytes is the largest event on the wire. Brokers take 1 MiB by default, of
// which NATS Streaming needs some for its own header.
const maxBytes = 1_000_000

// Outbox is where a service's events are written, in the transaction of the
// change that they tell of. There is no way to publish outside a transaction.
type Outbox struct {
	db       *database.DB
	dialect  dialect
	source   string
	sql      *statements
	declared map[Meta]Event // by stream and type, with an empty key

	// Both have room for one signal: a wake-up that nobody has heard yet
	// covers the next.
	committed chan struct{}
	scheduled chan struct{}
}

// NewOutbox returns the outbox of a service. source names the service in every
// event; declares has a value of each type of event that it publishes, from
// which `describe` and the service's contracts come. It panics if an event has
// no stream or type.
func NewOutbox(db *database.DB, source string, declares ...Event) *Outbox {
	d := dialectOf(db)
	o := &Outbox{
		db: db, dialect: d, source: source, sql: newStatements(d), declared: map[Meta]Event{},
		committed: make(chan struct{}, 1), scheduled: make(chan struct{}, 1),
	}
	for _, e := range declares {
		m := e.Meta()
		for what, name := range map[string]string{"stream": m.Stream, "type": m.Type} {
			if err := checkName(what, name); err != nil {
				panic(fmt.Sprintf("event: %T: %v", e, err))
			}
		}
		m.Key = ""
		o.declared[m] = e
	}
	return o
}

// PublishOption changes how an event is published.
type PublishOption func(*publication)

// At has the event published at t, by whichever process of the service is
// alive then; until then it is stored. It gets its number in its key when it is
// due, so an event published meanwhile comes before it. At means not before t:
// a time that is past means as soon as possible.
func At(t time.Time) PublishOption {
	return func(p *publication) { p.due = micros(t) }
}

// publication is an event on its way into the outbox.
type publication struct {
	Meta
	id    string
	draft []byte
	due   int64 // microseconds; 0 for at once

	order int64 // among those due: the row's id
}

// Publish writes e to the outbox as part of tx: it will be delivered to every
// listener group if tx commits, and never was if tx rolls back. It returns an
// error, on which the caller should return from the transaction, if the event
// was not declared to NewOutbox, has no key, does not encode to JSON, or is
// larger than 1,000,000 bytes encoded.
//
// Events of one key are numbered in the order in which their transactions
// commit, and within a transaction in the order of the calls.
func (o *Outbox) Publish(ctx context.Context, tx *database.Tx, e Event, opts ...PublishOption) error {
	m := e.Meta()
	if _, ok := o.declared[Meta{Stream: m.Stream, Type: m.Type}]; !ok {
		return fmt.Errorf("event: publish %s on %s: %T is not declared; name it in NewOutbox", m.Type, m.Stream, e)
	}
	if err := checkKey(m.Key); err != nil {
		return fmt.Errorf("event: publish %s on %s: %w", m.Type, m.Stream, err)
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("event: publish %s of %s: %w", m.Type, m.Key, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("event: publish %s of %s: %w", m.Type, m.Key, err)
	}
	trace := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, trace)
	env := envelope{
		ID: id.String(), Source: o.source, Type: m.Type, Key: m.Key,
		TraceParent: trace["traceparent"], Data: data,
	}
	draft, err := env.draft()
	if err != nil {
		return fmt.Errorf("event: publish %s of %s: %w", m.Type, m.Key, err)
	}
	if size := len(draft) + sealSize; size > maxBytes {
		return fmt.Errorf("event: publish %s of %s: %d bytes encoded, the most is %d; store the large part and publish a reference to it", m.Type, m.Key, size, maxBytes)
	}
	p := publication{Meta: m, id: env.ID, draft: draft}
	for _, option := range opts {
		option(&p)
	}
	b := tx.Attach(o, func() database.BeforeCommit { return &batch{outbox: o} }).(*batch)
	b.publications = append(b.publications, p)
	return nil
}

// batch collects what one transaction publishes. The numbers are taken at the
// very end, in one statement sorted by key: taken at each Publish, two
// transactions that publish for x, y and y, x would deadlock, and a hot key
// would stay locked for as long as the slowest of them runs.
type batch struct {
	outbox       *Outbox
	publications []publication
}

func (b *batch) BeforeCommit(ctx context.Context, tx *database.Tx) error {
	var now, later []publication
	for _, p := range b.publications {
		if p.due == 0 {
			now = append(now, p)
		} else {
			later = append(later, p)
		}
	}
	o := b.outbox
	if err := o.enqueue(ctx, tx, now); err != nil {
		return err
	}
	if err := o.schedule(ctx, tx, later); err != nil {
		return err
	}
	tx.AfterCommit(func() {
		if len(now) > 0 {
			signal(o.committed)
		}
		if len(later) > 0 {
			signal(o.scheduled)
		}
	})
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// enqueue gives the publications their numbers, in the order given within each
// key, and writes them to the outbox.
func (o *Outbox) enqueue(ctx context.Context, tx *database.Tx, publications []publication) error {
	if len(publications) == 0 {
		return nil
	}
	type count struct {
		Stream string `json:"stream"`
		Key    string `json:"key"`
		N      int64  `json:"n"`
	}
	index := map[[2]string]int{}
	var counts []count
	for _, p := range publications {
		k := [2]string{p.Stream, p.Key}
		if i, ok := index[k]; ok {
			counts[i].N++
			continue
		}
		index[k] = len(counts)
		counts = append(counts, count{p.Stream, p.Key, 1})
	}
	rows, err := tx.QueryContext(ctx, o.sql.number, asRows(counts), micros(time.Now()))
	if err != nil {
		return fmt.Errorf("event: number events: %w", err)
	}
	defer rows.Close()
	type numbers struct {
		next, at, previous int64
	}
	given := map[[2]string]*numbers{}
	for rows.Next() {
		var k [2]string
		var last, at int64
		var previous sql.NullInt64
		if err := rows.Scan(&k[0], &k[1], &last, &at, &previous); err != nil {
			return fmt.Errorf("event: number events: %w", err)
		}
		given[k] = &numbers{next: last - counts[index[k]].N + 1, at: at, previous: previous.Int64}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("event: number events: %w", err)
	}
	type row struct {
		Stream  string `json:"stream"`
		Key     string `json:"key"`
		Seq     int64  `json:"seq"`
		EventID string `json:"event_id"`
		Type    string `json:"type"`
		Body    string `json:"body"`
		At      int64  `json:"at"`
	}
	queue := make([]row, len(publications))
	for i, p := range publications {
		n := given[[2]string{p.Stream, p.Key}]
		queue[i] = row{p.Stream, p.Key, n.next, p.id, p.Type, string(seal(p.draft, n.next, n.at, n.previous)), n.at}
		n.next++
		n.previous = n.at
	}
	if _, err := tx.ExecContext(ctx, o.sql.enqueue, asRows(queue)); err != nil {
		return fmt.Errorf("event: write the outbox: %w", err)
	}
	return nil
}

func (o *Outbox) schedule(ctx context.Context, tx *database.Tx, publications []publication) error {
	if len(publications) == 0 {
		return nil
	}
	type row struct {
		Stream  string `json:"stream"`
		Key     string `json:"key"`
		EventID string `json:"event_id"`
		Type    string `json:"type"`
		DueAt   int64  `json:"due_at"`
		Body    string `json:"body"`
	}
	rows := make([]row, len(publications))
	for i, p := range publications {
		rows[i] = row{p.Stream, p.Key, p.id, p.Type, p.due, string(p.draft)}
	}
	if _, err := tx.ExecContext(ctx, o.sql.schedule, asRows(rows)); err != nil {
		return fmt.Errorf("event: write scheduled events: %w", err)
	}
	return nil
}

// publishDue moves what is due from the schedule to the outbox and reports
// whether there may be more.
//
// The keys' sequence rows are locked before the due rows are read, in a
// statement of their own: two processes that each took some due rows of one
// key would otherwise number them in the wrong order.
func (o *Outbox) publishDue(ctx context.Context) (more bool, err error) {
	keys, err := o.dueKeys(ctx)
	if err != nil || len(keys) == 0 {
		return false, err
	}
	err = o.db.InTx(ctx, func(tx *database.Tx) error {
		if _, err := tx.ExecContext(ctx, o.sql.lockKeys, asRows(keys)); err != nil {
			return fmt.Errorf("event: lock the keys of due events: %w", err)
		}
		due, err := o.takeDue(ctx, tx, keys)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() { signal(o.committed) })
		return o.enqueue(ctx, tx, due)
	})
	return err == nil, err
}

// rowKey names a key in a statement's set of rows.
type rowKey struct {
	Stream string `json:"stream"`
	Key    string `json:"key"`
}

func (o *Outbox) dueKeys(ctx context.Context) ([]rowKey, error) {
	keys, err := database.QueryAll(ctx, o.db, scanKey, o.sql.dueKeys, micros(time.Now()))
	if err != nil {
		return nil, fmt.Errorf("event: read due events: %w", err)
	}
	return keys, nil
}

func scanKey(row database.Row) (k rowKey, err error) {
	err = row.Scan(&k.Stream, &k.Key)
	return k, err
}

func (o *Outbox) takeDue(ctx context.Context, tx *database.Tx, keys []rowKey) ([]publication, error) {
	due, err := database.QueryAll(ctx, tx, func(row database.Row) (p publication, err error) {
		err = row.Scan(&p.order, &p.Stream, &p.Key, &p.id, &p.Type, &p.due, &p.draft)
		return p, err
	}, o.sql.takeDue, asRows(keys), micros(time.Now()))
	if err != nil {
		return nil, fmt.Errorf("event: take due events: %w", err)
	}
	slices.SortFunc(due, func(a, b publication) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.order, b.order))
	})
	return due, nil
}

// nextDue returns the time at which the next scheduled event is due; false if
// there is none.
func (o *Outbox) nextDue(ctx context.Context) (time.Time, bool, error) {
	var due sql.NullInt64
	if err := o.db.QueryRowContext(ctx, o.sql.nextDue).Scan(&due); err != nil {
		return time.Time{}, false, fmt.Errorf("event: read the next due time: %w", err)
	}
	return fromMicros(due.Int64), due.Valid, nil
}
