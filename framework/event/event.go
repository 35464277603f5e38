package event

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Event is a fact that a service publishes. It is a struct that encodes to
// JSON and names itself; the method has a value receiver, so that the zero
// value can tell its stream and type.
type Event interface {
	Meta() Meta
}

// Meta says what an event is and what it is about. Stream and Type are the
// same for every value of one Go type. Identity is these declared strings,
// never the Go type's name, so that code can be renamed freely.
type Meta struct {
	Stream string // one per aggregate type, e.g. "orders"; also the broker's channel
	Type   string // what happened, e.g. "order.created"
	Key    string // the aggregate's id; events of one key are applied in order
}

// Message is an event as it reaches a listener.
type Message[E Event] struct {
	ID       string // of this event, unique; the same in every delivery
	Source   string // the service that published it
	Stream   string
	Type     string
	Key      string
	Sequence int64     // 1, 2, 3, … within the key
	Time     time.Time // when it was published
	Attempt  int       // 1 for the first call of the handler
	Data     E
}

// Dead wraps an error that no retry can mend: the event becomes a dead letter
// at once. Dead(nil) is nil.
func Dead(err error) error {
	if err == nil {
		return nil
	}
	return &verdict{err: err, dead: true}
}

// RetryAfter wraps an error and says when the next attempt is worth while,
// instead of the usual backoff. It counts as an attempt. RetryAfter(nil, d)
// is nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &verdict{err: err, after: max(d, time.Millisecond)}
}

// verdict is a handler's error with what to do about it.
type verdict struct {
	err   error
	dead  bool
	after time.Duration
}

func (v *verdict) Error() string { return v.err.Error() }
func (v *verdict) Unwrap() error { return v.err }

func verdictOf(err error) verdict {
	var v *verdict
	if errors.As(err, &v) {
		return *v
	}
	return verdict{err: err}
}

// handler is the plain inside of a typed handler.
type handler struct {
	stream, typ string
	data        reflect.Type
	call        func(ctx context.Context, tx *database.Tx, e *envelope, attempt int) error
}

// Handle registers fn for the events of type E. fn's effects, the listener's
// cursor and the events that fn publishes commit in one transaction, so the
// event takes effect exactly once and in order within its key; what fn does
// outside tx may be repeated.
//
// The error that fn returns steers the listener: nil commits; Dead gives up at
// once; RetryAfter names the time of the next attempt; any other error, and a
// panic, is tried again with backoff. While an event waits, only its own key
// waits with it. fn may be called again although it returned nil, when the
// transaction could not be committed.
//
// Handle panics if E has no stream or type, or is handled already: mistakes of
// registration are found at start-up.
func Handle[E Event](l *Listener, fn func(ctx context.Context, tx *database.Tx, m *Message[E]) error) {
	meta := metaOf[E]()
	l.register(handler{
		stream: meta.Stream,
		typ:    meta.Type,
		data:   reflect.TypeFor[E](),
		call: func(ctx context.Context, tx *database.Tx, e *envelope, attempt int) error {
			m := &Message[E]{
				ID: e.ID, Source: e.Source, Stream: e.Stream, Type: e.Type, Key: e.Key,
				Sequence: e.Sequence, Time: e.Time, Attempt: attempt,
			}
			if err := e.decodeData(&m.Data); err != nil {
				return Dead(err)
			}
			return fn(ctx, tx, m)
		},
	})
}

// Ignore declares that the group handles events of type E no longer, after a
// version that did. Without it a listener that meets such an event keeps it
// for the members of its group that can handle it.
func Ignore[E Event](l *Listener) {
	meta := metaOf[E]()
	l.register(handler{stream: meta.Stream, typ: meta.Type, data: reflect.TypeFor[E]()})
}

// metaOf returns the stream and type of E, of which it makes a zero value.
func metaOf[E Event]() (m Meta) {
	t := reflect.TypeFor[E]()
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("event: %v must be a struct with a value receiver Meta, to name its stream and type without a value", t))
	}
	var zero E
	m = zero.Meta()
	if err := checkName("stream", m.Stream); err != nil {
		panic(fmt.Sprintf("event: %v: %v", t, err))
	}
	if err := checkName("type", m.Type); err != nil {
		panic(fmt.Sprintf("event: %v: %v", t, err))
	}
	return m
}
