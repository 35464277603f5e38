package event

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Listener is one listener group's member in this process: its handlers, and
// the cursors that make each event take effect exactly once and in order.
//
// Register handlers with Handle before the Client runs.
type Listener struct {
	db       *database.DB
	dialect  dialect
	group    string
	sql      *statements
	handlers map[Meta]handler // by stream and type, with an empty key

	// Set by the Client before it runs.
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	workers *workers

	since map[string]int64 // by stream: when the group first subscribed, in microseconds
	wake  chan struct{}    // tells the sweep that something may be due

	mu   sync.Mutex
	left map[rowKey]time.Time // keys that wait for another member, until when this one passes them by
}

// NewListener returns a listener of the group, which by custom is named after
// the service. All processes of a group share one database.
func NewListener(db *database.DB, group string) *Listener {
	if err := checkName("group", group); err != nil {
		panic(fmt.Sprintf("event: %v", err))
	}
	d := dialectOf(db)
	return &Listener{
		db: db, dialect: d, group: group, sql: newStatements(d), handlers: map[Meta]handler{},
		wake: make(chan struct{}, 1), since: map[string]int64{}, left: map[rowKey]time.Time{},
	}
}

func (l *Listener) register(h handler) {
	k := Meta{Stream: h.stream, Type: h.typ}
	if _, ok := l.handlers[k]; ok {
		panic(fmt.Sprintf("event: group %s handles %s on %s twice; the second time as %v", l.group, h.typ, h.stream, h.data))
	}
	l.handlers[k] = h
}

// streams returns the names of the streams that the group listens to.
func (l *Listener) streams() []string {
	set := map[string]bool{}
	for k := range l.handlers {
		set[k.Stream] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// arrival is a message that the broker delivered.
type arrival struct {
	*envelope
	body        []byte
	malformed   error // why body is no event; envelope has the stream only
	redelivered bool
	ack         func() error
}

// prepare records since when the group listens and what this member handles.
// It is done before the first message is taken: the events of a type recorded
// here are kept for this member by others that do not know it.
func (l *Listener) prepare(ctx context.Context) error {
	return l.db.InTx(ctx, func(tx *database.Tx) error {
		now := micros(time.Now())
		for _, stream := range l.streams() {
			if _, err := tx.ExecContext(ctx, l.sql.subscribe, l.group, stream, now); err != nil {
				return fmt.Errorf("event: subscribe group %s to %s: %w", l.group, stream, err)
			}
			var since int64
			if err := tx.QueryRowContext(ctx, l.sql.since, l.group, stream).Scan(&since); err != nil {
				return fmt.Errorf("event: subscribe group %s to %s: %w", l.group, stream, err)
			}
			l.since[stream] = since
		}
		for k, h := range l.handlers {
			statement := l.sql.addType
			if h.call == nil {
				statement = l.sql.removeType
			}
			if _, err := tx.ExecContext(ctx, statement, l.group, k.Stream, k.Type); err != nil {
				return fmt.Errorf("event: record that group %s handles %s: %w", l.group, k.Type, err)
			}
		}
		return nil
	})
}

// run applies what deliver brings, until stop is done; then it finishes the
// batches under way. What is still queued is not acknowledged and so comes
// again. ctx ends the work itself.
func (l *Listener) run(ctx, stop context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { l.workers.run(stop, func(batch []*arrival) { l.apply(ctx, batch) }) })
	parts.Go(func() { l.sweep(ctx, stop) })
	parts.Wait()
}

// deliver takes a message from the broker, unless its session is over before
// there is room: then it comes again.
func (l *Listener) deliver(over context.Context, broker, stream string, d Delivery) {
	a := &arrival{body: d.Body, redelivered: d.Redelivered, ack: d.Ack}
	var err error
	if a.envelope, err = decodeEnvelope(stream, d.Body); err != nil {
		a.envelope, a.malformed = &envelope{Stream: stream}, err
	}
	l.metrics.delivered(over, broker, l.group, stream, d.Redelivered)
	l.workers.add(over, a)
}

// apply makes a batch take effect and then acknowledges it. A batch in which a
// handler fails is done again one event at a time, so that the failing one is
// parked and the others commit. While the database is away it waits.
func (l *Listener) apply(ctx context.Context, batch []*arrival) {
	away := backoff{first: 20 * time.Millisecond, most: 2 * time.Second}
	for {
		err := l.turn(ctx, batch, everything)
		if err == nil {
			l.acknowledge(ctx, batch)
			return
		}
		if !l.isOurs(ctx, err) || database.Retryable(err) {
			// Batches that get in each other's way could do so for ever.
			break
		}
		if !l.pause(ctx, &away, err) {
			return
		}
	}
	for _, a := range batch {
		if !l.applyOne(ctx, a, &away) {
			return
		}
		l.acknowledge(ctx, []*arrival{a})
	}
}

// applyOne makes one event take effect or parks it. It returns false if ctx
// ended before it could do either.
func (l *Listener) applyOne(ctx context.Context, a *arrival, away *backoff) bool {
	for {
		err := l.turn(ctx, []*arrival{a}, single)
		if err != nil && !l.isOurs(ctx, err) {
			err = l.parkFailed(ctx, a, err)
		}
		if err == nil {
			away.reset()
			return true
		}
		if !l.pause(ctx, away, err) {
			return false
		}
	}
}

// isOurs reports whether err is the ledger's own trouble, which is no fault of
// an event and counts no attempt: the database is away, transactions got in
// each other's way, or the process is stopping.
func (l *Listener) isOurs(ctx context.Context, err error) bool {
	if ctx.Err() != nil || database.Retryable(err) {
		return true
	}
	if _, ok := errors.AsType[*handlerError](err); ok {
		return false
	}
	return database.Away(err)
}

func (l *Listener) pause(ctx context.Context, b *backoff, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	l.log.WarnContext(ctx, "listener: the database could not be used; trying again", "group", l.group, "error", err)
	return b.wait(ctx, nil)
}

func (l *Listener) acknowledge(ctx context.Context, batch []*arrival) {
	for _, a := range batch {
		if err := a.ack(); err != nil {
			// It comes again and is dropped as a duplicate.
			l.log.DebugContext(ctx, "listener: an acknowledgement was lost", "group", l.group, "stream", a.Stream, "event", a.ID, "error", err)
		}
	}
}

// retryDelay returns the pause after the attempt of that number failed.
func (l *Listener) retryDelay(attempt int) time.Duration {
	b := backoff{first: l.cfg.RetryFirst, most: l.cfg.RetryMost, tries: attempt - 1}
	return b.next()
}
