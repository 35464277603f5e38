package event

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/internal/logs"
)

// States of a parked event.
const (
	early = "early" // never tried; waits for a predecessor, or for the sweep
	retry = "retry" // failed, or may have; waits for its next attempt
	dead  = "dead"  // waits for an operator
)

// Kinds of letter besides the dead.
const (
	letterMalformed = "malformed" // a message that is no event
	letterGap       = "gap"       // a number that does not arrive
	letterFork      = "fork"      // a number that was given to two events
)

// How much a turn may do.
type extent int

const (
	everything extent = iota // call handlers for the batch and for what it releases
	single                   // at most one handler: a failure is then this event's own
	claiming                 // no handler, and only the keys that nobody is working on
)

// window is how many parked events of a key one turn looks at.
const window = 64

// cursor is how far the group is in one key, held under its row's lock.
type cursor struct {
	rowKey
	Seq     int64  `json:"seq"`
	EventID string `json:"event_id"` // of the event applied last; empty if skipped or adopted
	Parked  int64  `json:"parked"`
	WakeAt  *int64 `json:"wake_at"` // when the sweep should look here; nil for never

	waiting []parkedRow // in order, as far as the window
	from    int64       // Seq at the turn's start
	waited  bool        // at the turn's start something was parked
	stuck   bool        // and nothing would wake it
	changed bool
	fixed   bool // WakeAt is decided
}

// parkedRow is an event in the table of those that wait.
type parkedRow struct {
	rowKey
	Seq      int64  `json:"seq"`
	State    string `json:"state"`
	Attempts int64  `json:"attempts"`
	DueAt    int64  `json:"due_at"`
	Error    string `json:"error"`
	Body     string `json:"body"`
	At       int64  `json:"at"` // when it was parked
}

// reference names a parked event.
type reference struct {
	rowKey
	Seq int64 `json:"seq"`
}

type letter struct {
	rowKey
	Seq   int64  `json:"seq"`
	Kind  string `json:"kind"`
	Error string `json:"error"`
	Body  string `json:"body"`
	At    int64  `json:"at"`
}

// attemptRow is an attempt that failed, for people.
type attemptRow struct {
	rowKey
	Seq     int64  `json:"seq"`
	EventID string `json:"event_id"`
	Attempt int64  `json:"attempt"`
	Error   string `json:"error"`
	At      int64  `json:"at"`
}

type journalRow struct {
	rowKey
	Seq     int64  `json:"seq"`
	EventID string `json:"event_id"`
	Type    string `json:"type"`
	At      int64  `json:"at"`
}

// handlerError is a handler's failure and the event that it failed on.
type handlerError struct {
	event *envelope
	err   error
}

func (e *handlerError) Error() string {
	return fmt.Sprintf("event: handle %s %s (%s %s, number %d): %v", e.event.Type, e.event.ID, e.event.Stream, e.event.Key, e.event.Sequence, e.err)
}
func (e *handlerError) Unwrap() error { return e.err }

// turn is one transaction of the listener. It follows the ledger's rules for
// a batch: cursors are created, then locked in order, then what is parked
// behind them is read, each in a statement of its own, before any handler runs.
// To create and lock in one statement returns nothing for a new key; to lock
// and read in one misses what was parked while waiting for the lock; and to
// lock the existing ones before creating the others deadlocks.
type turn struct {
	l      *Listener
	tx     *database.Tx
	extent extent
	now    int64

	cursors map[rowKey]*cursor
	order   []*cursor
	known   map[Meta]bool // types that some member of the group handles; nil until needed

	park     []parkedRow
	unpark   []reference
	update   []parkedRow
	attempts []attemptRow
	letters  []letter
	journal  []journalRow
	clear    []rowKey
	others   bool // something was parked for another member of the group
	counts   counts
	spans    []trace.Span
}

// counts is what a turn did, for the metrics, which hear of it if it commits.
type counts struct {
	duplicates, parked, released, adopted, gaps, forks, malformed int64
	applied                                                       []applied
}

type applied struct {
	stream, typ string
	committed   time.Time
}

// turn applies a batch of arrivals in one transaction.
func (l *Listener) turn(ctx context.Context, batch []*arrival, extent extent) error {
	return l.inTurn(ctx, keysOf(batch), extent, func(ctx context.Context, t *turn) error {
		for _, a := range batch {
			if a.malformed != nil {
				t.malformed(a)
			}
		}
		for key, arrivals := range group(batch) {
			if err := t.apply(ctx, t.cursors[key], arrivals); err != nil {
				return err
			}
		}
		return nil
	})
}

// inTurn runs f with the keys' cursors locked, and commits what it decided.
func (l *Listener) inTurn(ctx context.Context, keys []rowKey, extent extent, f func(ctx context.Context, t *turn) error) error {
	var t *turn
	err := l.db.InTx(ctx, func(tx *database.Tx) error {
		t = &turn{l: l, tx: tx, extent: extent, now: micros(time.Now()), cursors: map[rowKey]*cursor{}}
		if err := t.lock(ctx, keys); err != nil {
			return err
		}
		err := f(ctx, t)
		for _, s := range t.spans {
			s.End()
		}
		if err != nil {
			return err
		}
		return t.write(ctx)
	})
	if err == nil {
		l.metrics.turn(ctx, l.group, t.counts)
		for _, c := range t.order {
			if c.WakeAt != nil {
				signal(l.wake)
				break
			}
		}
		if t.others {
			if err := l.db.Notify(ctx, channel, callListener); err != nil {
				l.log.DebugContext(ctx, "listener: other processes were not told of a parked event; they look every second", "group", l.group, "error", err)
			}
		}
	}
	return err
}

// keysOf returns the keys of a batch, each once and sorted.
func keysOf(batch []*arrival) []rowKey {
	var keys []rowKey
	for _, a := range batch {
		if a.malformed == nil {
			keys = append(keys, rowKey{a.Stream, a.Key})
		}
	}
	slices.SortFunc(keys, compareKeys)
	return slices.Compact(keys)
}

func compareKeys(a, b rowKey) int {
	return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Key, b.Key))
}

// group yields the events of a batch by key, in order of key and then number.
func group(batch []*arrival) func(yield func(rowKey, []*arrival) bool) {
	return func(yield func(rowKey, []*arrival) bool) {
		sorted := slices.DeleteFunc(slices.Clone(batch), func(a *arrival) bool { return a.malformed != nil })
		slices.SortStableFunc(sorted, func(a, b *arrival) int {
			return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Sequence, b.Sequence))
		})
		for len(sorted) > 0 {
			key := rowKey{sorted[0].Stream, sorted[0].Key}
			n := 1
			for n < len(sorted) && (rowKey{sorted[n].Stream, sorted[n].Key}) == key {
				n++
			}
			if !yield(key, sorted[:n]) {
				return
			}
			sorted = sorted[n:]
		}
	}
}

func (t *turn) lock(ctx context.Context, keys []rowKey) error {
	if len(keys) == 0 {
		return nil
	}
	arg, statement := asRows(keys), t.l.sql.lockCursors
	if t.extent == claiming {
		statement = t.l.sql.lockFreeCursors
	} else if _, err := t.tx.ExecContext(ctx, t.l.sql.createCursors, arg, t.l.group); err != nil {
		return fmt.Errorf("event: create cursors: %w", err)
	}
	waiting, err := t.readCursors(ctx, statement, arg)
	if err != nil || len(waiting) == 0 {
		return err
	}
	return t.readParked(ctx, waiting)
}

// readCursors locks the cursors and returns, for those with something parked,
// the number up to which this turn looks.
func (t *turn) readCursors(ctx context.Context, statement, keys string) (waiting []reference, err error) {
	rows, err := t.tx.QueryContext(ctx, statement, keys, t.l.group)
	if err != nil {
		return nil, fmt.Errorf("event: lock cursors: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var c cursor
		var wake sql.NullInt64
		if err := rows.Scan(&c.Stream, &c.Key, &c.Seq, &c.EventID, &c.Parked, &wake); err != nil {
			return nil, fmt.Errorf("event: lock cursors: %w", err)
		}
		if wake.Valid {
			c.WakeAt = &wake.Int64
		}
		c.from, c.waited = c.Seq, c.Parked > 0
		c.stuck = c.waited && !wake.Valid
		t.cursors[c.rowKey] = &c
		t.order = append(t.order, &c)
		if c.Parked > 0 {
			waiting = append(waiting, reference{c.rowKey, c.Seq + window})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("event: lock cursors: %w", err)
	}
	return waiting, nil
}

func (t *turn) readParked(ctx context.Context, upTo []reference) error {
	parked, err := database.QueryAll(ctx, t.tx, scanParked, t.l.sql.readParked, asRows(upTo), t.l.group)
	if err != nil {
		return fmt.Errorf("event: read parked events: %w", err)
	}
	for _, p := range parked {
		c := t.cursors[p.rowKey]
		c.waiting = append(c.waiting, p)
	}
	return nil
}

func scanParked(row database.Row) (p parkedRow, err error) {
	err = row.Scan(&p.Stream, &p.Key, &p.Seq, &p.State, &p.Attempts, &p.DueAt, &p.Body, &p.At)
	return p, err
}

// apply takes the arrivals of one key, in order of number.
func (t *turn) apply(ctx context.Context, c *cursor, arrivals []*arrival) error {
	for _, a := range arrivals {
		head := c.head()
		switch {
		case a.Sequence <= c.Seq:
			t.duplicate(c, a)
		case a.Sequence > c.Seq+1:
			t.parkEarly(c, a)
		case head != nil:
			t.counts.duplicates++
		case a.redelivered:
			// The handler may have been running when its process ended. The
			// sweep records an attempt before it makes it, so an event that
			// kills its process comes to an end as well.
			t.parkEarly(c, a)
		default:
			if kept, err := t.keepForOthers(ctx, a.envelope); err != nil {
				return err
			} else if kept {
				t.parkEarly(c, a)
				t.others = true
				continue
			}
			if err := t.handle(ctx, c, a.envelope, 1); err != nil {
				return err
			}
		}
		if err := t.release(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// release handles what waited for the cursor to come this far. What has failed
// before is left to the sweep, which minds its time.
func (t *turn) release(ctx context.Context, c *cursor) error {
	if t.extent == single || c.Seq == c.from {
		return nil
	}
	for head := c.head(); head != nil && head.State == early; head = c.head() {
		e, err := decodeEnvelope(head.Stream, []byte(head.Body))
		if err != nil {
			return fmt.Errorf("event: parked %s %s number %d: %w", head.Stream, head.Key, head.Seq, err)
		}
		if kept, err := t.keepForOthers(ctx, e); err != nil || kept {
			return err
		}
		if err := t.handle(ctx, c, e, 1); err != nil {
			return err
		}
		t.counts.released++
	}
	return nil
}

// head returns the parked event whose turn it is, or nil.
func (c *cursor) head() *parkedRow {
	for i := range c.waiting {
		if c.waiting[i].Seq == c.Seq+1 {
			return &c.waiting[i]
		}
	}
	return nil
}

// handle calls the handler of e, if the group has one, and advances the
// cursor past e. If e was parked, it is no longer.
func (t *turn) handle(ctx context.Context, c *cursor, e *envelope, attempt int) error {
	if h, ok := t.l.handlers[Meta{Stream: e.Stream, Type: e.Type}]; ok && h.call != nil {
		if err := t.call(ctx, h, e, attempt); err != nil {
			return &handlerError{event: e, err: err}
		}
		t.counts.applied = append(t.counts.applied, applied{e.Stream, e.Type, e.Time})
		if t.l.cfg.Journal {
			t.journal = append(t.journal, journalRow{c.rowKey, e.Sequence, e.ID, e.Type, micros(time.Now())})
		}
	}
	// Beyond the window it may be parked without this turn knowing.
	if c.head() != nil || c.waited && e.Sequence > c.from+window {
		t.unpark = append(t.unpark, reference{c.rowKey, e.Sequence})
		c.waiting = slices.DeleteFunc(c.waiting, func(w parkedRow) bool { return w.Seq == e.Sequence })
	}
	c.Seq, c.EventID, c.changed = e.Sequence, e.ID, true
	return nil
}

// call runs a handler with its time limit; a panic is an error.
func (t *turn) call(ctx context.Context, h handler, e *envelope, attempt int) (err error) {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": e.TraceParent})
	ctx, span := t.l.metrics.tracer.Start(ctx, "process "+e.Type, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(spanAttributes(t.l.group, e, attempt)...))
	// The span ends with the transaction: what it did is not done before.
	t.spans = append(t.spans, span)
	ctx, cancel := context.WithTimeout(ctx, t.l.cfg.HandlerTimeout)
	defer cancel()
	start := time.Now()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, "handler failed")
		}
		t.l.metrics.processed(ctx, t.l.group, e, start, err)
	}()
	return h.call(ctx, t.tx, e, attempt)
}

// keepForOthers reports whether e is of a type that this process does not know
// but another member of the group handles: during a rolling update, a newer
// one. To advance past it would lose it.
func (t *turn) keepForOthers(ctx context.Context, e *envelope) (bool, error) {
	m := Meta{Stream: e.Stream, Type: e.Type}
	if _, ok := t.l.handlers[m]; ok {
		return false, nil
	}
	if t.known == nil {
		// Read anew in every turn that needs it: a member that registers a
		// type does so before it or its events can be met here.
		known, err := database.QueryAll(ctx, t.tx, func(row database.Row) (k Meta, err error) {
			err = row.Scan(&k.Stream, &k.Type)
			return k, err
		}, t.l.sql.knownTypes, t.l.group)
		if err != nil {
			return false, fmt.Errorf("event: read the group's types: %w", err)
		}
		t.known = map[Meta]bool{}
		for _, k := range known {
			t.known[k] = true
		}
	}
	return t.known[m], nil
}

func (t *turn) duplicate(c *cursor, a *arrival) {
	t.counts.duplicates++
	if a.Sequence < c.Seq || c.EventID == "" || c.EventID == a.ID {
		return
	}
	// A producer that was restored from a backup gives numbers out again.
	t.counts.forks++
	t.letters = append(t.letters, letter{
		c.rowKey, a.Sequence, letterFork,
		storable(fmt.Sprintf("number %d is event %s here and event %s from %s: the producer's history was rewound", a.Sequence, c.EventID, a.ID, a.Source)),
		string(a.body), t.now,
	})
}

func (t *turn) malformed(a *arrival) {
	t.counts.malformed++
	body := string(a.body)
	if !utf8.ValidString(body) || slices.Contains(a.body, 0) {
		body = strconv.QuoteToASCII(body)
	}
	t.letters = append(t.letters, letter{rowKey{Stream: a.Stream}, 0, letterMalformed, a.malformed.Error(), body, t.now})
}

func (t *turn) parkEarly(c *cursor, a *arrival) {
	t.insert(c, parkedRow{rowKey: c.rowKey, Seq: a.Sequence, State: early, DueAt: t.now, Body: string(a.body), At: t.now})
}

// insert parks p, unless it is parked already.
func (t *turn) insert(c *cursor, p parkedRow) {
	i, found := slices.BinarySearchFunc(c.waiting, p.Seq, func(w parkedRow, seq int64) int { return cmp.Compare(w.Seq, seq) })
	if found {
		t.counts.duplicates++
		return
	}
	c.waiting = slices.Insert(c.waiting, i, p)
	c.changed = true
	t.park = append(t.park, p)
}

// write stores what the turn decided, one statement for each table.
func (t *turn) write(ctx context.Context) error {
	l := t.l
	run := func(what, statement string, rows any) error {
		if _, err := t.tx.ExecContext(ctx, statement, asRows(rows), l.group); err != nil {
			return fmt.Errorf("event: %s: %w", what, err)
		}
		return nil
	}
	// An event that was parked and released in the same turn need not go
	// through the table; beyond the window it may have been there before.
	t.park = slices.DeleteFunc(t.park, func(p parkedRow) bool {
		i := slices.Index(t.unpark, reference{p.rowKey, p.Seq})
		if i < 0 || p.Seq > t.cursors[p.rowKey].from+window {
			return false
		}
		t.unpark = slices.Delete(t.unpark, i, i+1)
		return true
	})
	if len(t.park) > 0 {
		parked, err := t.affected(ctx, "park events", l.sql.insertParked, t.park)
		if err != nil {
			return err
		}
		for _, k := range parked {
			t.cursors[k].Parked++
		}
		t.counts.parked += int64(len(parked))
		t.counts.duplicates += int64(len(t.park) - len(parked))
	}
	if len(t.update) > 0 {
		if err := run("update parked events", l.sql.updateParked, t.update); err != nil {
			return err
		}
	}
	if len(t.unpark) > 0 {
		removed, err := t.affected(ctx, "remove parked events", l.sql.deleteParked, t.unpark)
		if err != nil {
			return err
		}
		for _, k := range removed {
			t.cursors[k].Parked--
		}
	}
	var changed []*cursor
	for _, c := range t.order {
		if !c.changed {
			continue
		}
		if !c.fixed {
			c.WakeAt = t.wakeAt(c)
		}
		changed = append(changed, c)
		if c.waited && (c.Seq > c.from || c.stuck && c.head() != nil) {
			t.clear = append(t.clear, c.rowKey)
		}
	}
	if len(changed) > 0 {
		if err := run("advance cursors", l.sql.updateCursors, changed); err != nil {
			return err
		}
	}
	if len(t.journal) > 0 {
		if err := run("write the journal", l.sql.insertJournal, t.journal); err != nil {
			return err
		}
	}
	if len(t.attempts) > 0 {
		if err := run("record attempts", l.sql.insertAttempts, t.attempts); err != nil {
			return err
		}
	}
	if len(t.clear) > 0 {
		if err := run("clear gaps", l.sql.clearGaps, t.clear); err != nil {
			return err
		}
	}
	if len(t.letters) > 0 {
		return t.writeLetters(ctx)
	}
	return nil
}

// writeLetters stores letters and, once they are committed, has people told of
// those that are new.
func (t *turn) writeLetters(ctx context.Context) error {
	written, err := database.QueryAll(ctx, t.tx, func(row database.Row) (w letter, err error) {
		err = row.Scan(&w.Stream, &w.Key, &w.Seq, &w.Kind, &w.Error)
		return w, err
	}, t.l.sql.insertLetters, asRows(t.letters), t.l.group)
	if err != nil {
		return fmt.Errorf("event: write letters: %w", err)
	}
	t.tx.AfterCommit(func() {
		for _, w := range written {
			told := letterNotices[w.Kind]
			t.l.log.ErrorContext(ctx, told.text, logs.Notice(told.reason), "group", t.l.group, "stream", w.Stream, "key", w.Key, "sequence", w.Seq, "error", w.Error)
		}
	})
	return nil
}

// letterNotices has what people are told of a letter, by its kind.
var letterNotices = map[string]struct{ reason, text string }{
	letterMalformed: {"MalformedMessage", "listener: a message is no event; find out who sends to the stream"},
	letterGap:       {"Gap", "listener: a gap does not close; have the producer send the event again, or skip it"},
	letterFork:      {"Fork", "listener: a number was given to two events; compare the two services by hand"},
}

// affected runs a statement on parked rows and returns the keys of those that
// it changed: what is parked beyond the window, only the database knows.
func (t *turn) affected(ctx context.Context, what, statement string, rows any) ([]rowKey, error) {
	keys, err := database.QueryAll(ctx, t.tx, scanKey, statement, asRows(rows), t.l.group)
	if err != nil {
		return nil, fmt.Errorf("event: %s: %w", what, err)
	}
	return keys, nil
}

// wakeAt says when the sweep should look at a key, given how the turn leaves
// it; nil for never.
func (t *turn) wakeAt(c *cursor) *int64 {
	if c.Parked == 0 {
		return nil
	}
	at := t.now
	switch head := c.head(); {
	case head == nil && len(c.waiting) > 0 && c.Seq == c.from && c.WakeAt != nil:
		return c.WakeAt // the same gap as before
	case head == nil && len(c.waiting) == 0 && c.Seq == c.from:
		return c.WakeAt // what waits lies beyond the window
	case head == nil && c.stuck && c.Seq == c.from:
		return nil // a gap that is known and reported
	case head == nil && c.Seq == 0:
		at += t.l.cfg.adoptAfter().Microseconds()
	case head == nil && len(c.waiting) > 0:
		at += t.l.cfg.GapTimeout.Microseconds()
	case head == nil:
		// Beyond the window: let the sweep see.
	case head.State == dead:
		return nil
	case head.State == retry:
		at = head.DueAt
	}
	return &at
}

// parkFailed parks an arrival whose turn failed, unless the cursor has moved
// past it meanwhile: then another process applied it. The turn of one that is
// early failed before any handler was asked, so it counts no attempt.
func (l *Listener) parkFailed(ctx context.Context, a *arrival, failure error) error {
	if a.malformed != nil {
		l.log.ErrorContext(ctx, "listener: a malformed message is dropped; it cannot be stored", "group", l.group, "stream", a.Stream, "malformed", a.malformed, "error", failure)
		return nil
	}
	return l.inTurn(ctx, keysOf([]*arrival{a}), single, func(ctx context.Context, t *turn) error {
		c := t.cursors[rowKey{a.Stream, a.Key}]
		switch {
		case a.Sequence <= c.Seq:
			return nil
		case a.Sequence > c.Seq+1:
			t.parkEarly(c, a)
			return nil
		}
		p := parkedRow{rowKey: c.rowKey, Seq: a.Sequence, Attempts: 1, Body: string(a.body), At: t.now}
		t.sentence(ctx, &p, a.envelope, failure)
		t.insert(c, p)
		return nil
	})
}

// sentence says what becomes of an event that has failed p.Attempts times.
func (t *turn) sentence(ctx context.Context, p *parkedRow, e *envelope, failure error) {
	l, v := t.l, verdictOf(failure)
	delay := l.retryDelay(int(p.Attempts))
	if v.after > 0 {
		delay = v.after
	}
	p.State, p.Error = retry, storable(failure.Error())
	p.DueAt = micros(time.Now().Add(delay))
	if v.dead || p.Attempts >= int64(l.cfg.Attempts) {
		p.State = dead
	}
	t.attempts = append(t.attempts, attemptRow{p.rowKey, p.Seq, e.ID, p.Attempts, p.Error, t.now})
	l.metrics.failed(ctx, l.group, e, p.State == dead)
	attempts, isDead := p.Attempts, p.State == dead
	t.tx.AfterCommit(func() {
		attrs := []any{"group", l.group, "stream", e.Stream, "type", e.Type, "key", e.Key, "sequence", e.Sequence, "event", e.ID}
		if isDead {
			l.log.ErrorContext(ctx, "listener: an event is dead, and its key waits; mend the cause and redrive it, or skip it",
				append(attrs, logs.Notice("DeadLetter"), "attempts", attempts, "error", failure)...)
			return
		}
		l.log.WarnContext(ctx, "listener: a handler failed; the event is tried again",
			append(attrs, "attempt", attempts, "retry_in", delay.Round(time.Millisecond).String(), "error", failure)...)
	})
}

// storable makes an error's text fit for a column.
func storable(s string) string {
	const most = 8 << 10
	if len(s) > most {
		s = s[:most] + "…"
	}
	b := []rune(s)
	for i, r := range b {
		if r == 0 || r == utf8.RuneError {
			b[i] = '?'
		}
	}
	return string(b)
}
