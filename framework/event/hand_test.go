package event_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// patience is how long a test waits for what should come at once.
const patience = 30 * time.Second

// eventually waits until ok says so. It is for what only the database tells;
// everything else is awaited on a channel.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no sign of %s within %v", what, patience)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no sign of %s within %v", what, patience)
		panic("unreachable")
	}
}

// onBoth runs a test on each kind of database, with a table for effects.
func onBoth(t *testing.T, test func(t *testing.T, db *database.DB)) {
	t.Helper()
	databasetest.Each(t, test, event.Migrations(), effects())
}

// hand is a broker that the test plays itself: nothing is delivered or
// acknowledged but by the test's hand.
type hand struct {
	mu       sync.Mutex
	refuse   error // what Connect says, if not nil
	answers  bool  // every publish is acknowledged at once
	session  *handSession
	connects int
}

func (h *hand) Name() string { return "hand" }

func (h *hand) Connect(context.Context) (event.Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.connects++
	if h.refuse != nil {
		return nil, h.refuse
	}
	h.session = &handSession{lost: make(chan struct{}), subscribed: map[string]func(event.Delivery){}, published: make(chan published, 10_000), answers: h.answers}
	return h.session, nil
}

func (h *hand) current() *handSession {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.session
}

// member returns how to deliver to the subscription of a stream, once it is
// there.
func (h *hand) member(t *testing.T, stream string) (deliver func(event.Delivery)) {
	t.Helper()
	eventually(t, "a subscription of "+stream, func() bool {
		if s := h.current(); s != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			deliver = s.subscribed[stream]
		}
		return deliver != nil
	})
	return deliver
}

// deliver gives the stream's subscriber a message. The channel is closed when
// it is acknowledged.
func (h *hand) deliver(t *testing.T, stream string, body []byte, redelivered bool) (acked chan struct{}) {
	t.Helper()
	acked = make(chan struct{})
	var once sync.Once
	h.member(t, stream)(event.Delivery{Body: body, Redelivered: redelivered, Ack: func() error {
		once.Do(func() { close(acked) })
		return nil
	}})
	return acked
}

// published is what a relay handed over; answer tells it how that went.
type published struct {
	stream string
	body   []byte
	answer func(error)
}

type handSession struct {
	mu         sync.Mutex
	subscribed map[string]func(event.Delivery)
	published  chan published
	answers    bool
	lost       chan struct{}
	once       sync.Once
}

func (s *handSession) Publish(ctx context.Context, stream string, body []byte, acked func(error)) {
	p := published{stream: stream, body: slices.Clone(body)}
	var once sync.Once
	p.answer = func(err error) { once.Do(func() { acked(err) }) }
	s.published <- p
	if s.answers {
		p.answer(nil)
		return
	}
	go func() {
		select {
		case <-s.lost:
			p.answer(errors.New("lost"))
		case <-ctx.Done():
			p.answer(ctx.Err())
		}
	}()
}

func (s *handSession) Subscribe(_ context.Context, sub event.Subscription, deliver func(event.Delivery)) (func() error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribed[sub.Stream] = deliver
	return func() error { return nil }, nil
}

func (s *handSession) Lost() <-chan struct{} { return s.lost }

func (s *handSession) Close() error {
	s.once.Do(func() { close(s.lost) })
	return nil
}

// run runs a client until the test ends, or until stop is called, which waits
// for its end.
func run(t *testing.T, c *event.Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Errorf("Run does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// message is a CloudEvent as another service would send it.
type message struct {
	typ, key, id string
	source       string
	seq          int
	previous     time.Time
	data         any
}

func (m message) body() []byte {
	if m.typ == "" {
		m.typ = "ping"
	}
	if m.id == "" {
		m.id = fmt.Sprintf("%s-%d", m.key, m.seq)
	}
	if m.source == "" {
		m.source = "front"
	}
	if m.data == nil {
		m.data = ping{Key: m.key, Value: m.seq}
	}
	attributes := map[string]any{
		"specversion": "1.0", "id": m.id, "source": m.source, "type": m.typ, "subject": m.key,
		"time": time.Now().UTC(), "sequence": fmt.Sprint(m.seq), "data": m.data,
	}
	if !m.previous.IsZero() {
		attributes["previoustime"] = m.previous.UTC()
	}
	b, err := json.Marshal(attributes)
	if err != nil {
		panic(err)
	}
	return b
}

// heard collects what handlers were called with, in order.
type heard struct {
	mu    sync.Mutex
	calls []string
	more  chan string
}

func newHeard() *heard { return &heard{more: make(chan string, 10_000)} }

func (h *heard) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := fmt.Sprintf(format, args...)
	h.calls = append(h.calls, s)
	h.more <- s
}

func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// applied returns the numbers of a key that took effect, in order.
func applied(t *testing.T, db *database.DB, key string) (seqs []int64) {
	t.Helper()
	rows, err := db.QueryContext(context.Background(), "SELECT seq FROM effect WHERE key = $1 ORDER BY id", key)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, seq)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return seqs
}

func upTo(n int64) (seqs []int64) {
	for i := range n {
		seqs = append(seqs, i+1)
	}
	return seqs
}

func letters(t *testing.T, db *database.DB) []admin.Letter {
	t.Helper()
	l, err := admin.New("back", db).Letters(context.Background(), admin.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// awaitLetter waits for a letter of the kind.
func awaitLetter(t *testing.T, db *database.DB, kind string) (letter admin.Letter) {
	t.Helper()
	eventually(t, "a letter of kind "+kind, func() bool {
		for _, l := range letters(t, db) {
			if l.Kind == kind {
				letter = l
				return true
			}
		}
		return false
	})
	return letter
}

// recorder handles pings of group "back": it records their effect, unless fail
// says otherwise.
func recorder(db *database.DB, fail func(m *event.Message[ping]) error) *event.Listener {
	l := event.NewListener(db, "back")
	event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[ping]) error {
		if err := record(ctx, tx, "back", m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value); err != nil {
			return err
		}
		if fail != nil {
			return fail(m)
		}
		return nil
	})
	return l
}

// quick retries fast.
var quick = event.Config{RetryFirst: time.Millisecond, RetryMost: 2 * time.Millisecond, DrainTimeout: 5 * time.Second, Attempts: 3}
