package eventtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework/event"
)

// Harness is a broker's server under test, fresh for one test.
type Harness struct {
	// Broker returns a broker for the client with this identity. Two brokers
	// with different identities are two processes to the server.
	Broker func(clientID string) event.Broker

	// Kill ends the server without a goodbye, or with as little of one as can
	// be arranged. Restart starts it again on the same data and address.
	Kill, Restart func()
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// TestBroker is what package event relies on, as tests. Every implementation
// of [event.Broker] passes it. start is called for each test, and ends with t
// what it began.
func TestBroker(t *testing.T, start func(t *testing.T) Harness) {
	tests := []struct {
		name string
		run  func(t *testing.T, h Harness)
	}{
		{"delivers what was published", testDelivers},
		{"starts a new group at the beginning", testNewGroup},
		{"keeps groups and streams apart", testApart},
		{"shares a stream among the members of a group", testShares},
		{"keeps a group's position across sessions", testPosition},
		{"delivers again what is not acknowledged in time", testAckWait},
		{"bounds what is in flight", testMaxInFlight},
		{"carries large messages and refuses larger ones", testLarge},
		{"stops a subscription", testStop},
		{"starts and stops subscriptions concurrently", testConcurrentStop},
		{"answers every publish once when closed", testCloseAnswers},
		{"answers every publish once when lost", testLossAnswers},
		{"says that the session is lost", testLost},
		{"loses nothing acknowledged when the server is killed", testKill},
		{"observes contexts", testContext},
		{"leaves no goroutine behind", testLeaks},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, start(t)) })
	}
}

func testDelivers(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	in := subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders"})
	want := publish(t, s, "tickets", 100)
	for range want {
		d := in.next(t)
		if d.Redelivered {
			t.Errorf("%s is said to be redelivered on its first delivery", d.Body)
		}
		ack(t, d)
	}
	in.sawAll(t, want)
}

func testNewGroup(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	want := publish(t, s, "tickets", 20)
	for _, group := range []string{"orders", "payments"} {
		in := subscribe(t, s, event.Subscription{Stream: "tickets", Group: group})
		for range want {
			ack(t, in.next(t))
		}
		in.sawAll(t, want)
	}
}

func testApart(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	other := connect(t, h, "two")
	tickets := subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders"})
	orders := subscribe(t, s, event.Subscription{Stream: "orders", Group: "orders"})
	second := subscribe(t, other, event.Subscription{Stream: "tickets", Group: "payments"})
	inTickets, inOrders := publish(t, s, "tickets", 10), publish(t, other, "orders", 10)
	for range 10 {
		ack(t, tickets.next(t))
		ack(t, orders.next(t))
		ack(t, second.next(t))
	}
	tickets.sawAll(t, inTickets)
	second.sawAll(t, inTickets)
	orders.sawAll(t, inOrders)
}

func testShares(t *testing.T, h Harness) {
	sub := event.Subscription{Stream: "tickets", Group: "orders", MaxInFlight: 5}
	s := connect(t, h, "one")
	a := subscribe(t, s, sub)
	b := subscribe(t, connect(t, h, "two"), sub)
	want := publish(t, s, "tickets", 40)

	// Neither may have more than five, so each must be given some.
	ofA, ofB := a.next(t), b.next(t)
	ack(t, ofA)
	ack(t, ofB)
	for range len(want) - 2 {
		select {
		case d := <-a.in:
			ack(t, a.note(d))
		case d := <-b.in:
			ack(t, b.note(d))
		case <-time.After(patience):
			t.Fatalf("only %d of %d messages arrived", len(a.seen)+len(b.seen), len(want))
		}
	}
	for body, n := range b.seen {
		a.seen[body] += n
	}
	a.sawAll(t, want)
	for body, n := range a.seen {
		if n != 1 {
			t.Errorf("%s was delivered %d times to a group of two members that acknowledged it", body, n)
		}
	}
}

func testPosition(t *testing.T, h Harness) {
	// One in flight at a time: a delivery proves that the acknowledgement of
	// the one before was heard.
	sub := event.Subscription{Stream: "tickets", Group: "orders", MaxInFlight: 1}
	s := connect(t, h, "one")
	before := publish(t, s, "tickets", 10)
	in := subscribe(t, s, sub)
	for range 9 {
		ack(t, in.next(t))
	}
	open := in.next(t) // is not acknowledged
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}

	s = connect(t, h, "one")
	after := publish(t, s, "tickets", 5)
	in = subscribe(t, s, sub)
	d := in.next(t)
	if !bytes.Equal(d.Body, open.Body) || !d.Redelivered {
		t.Errorf("the next session starts with %s, redelivered %t; want the unacknowledged %s, redelivered", d.Body, d.Redelivered, open.Body)
	}
	ack(t, d)
	for range after {
		ack(t, in.next(t))
	}
	in.sawAll(t, append(after, string(open.Body)))
	for _, body := range before {
		if body != string(open.Body) && in.seen[body] > 0 {
			t.Errorf("%s was delivered again although it was acknowledged", body)
		}
	}
}

func testAckWait(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	in := subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders", AckWait: time.Second})
	want := publish(t, s, "tickets", 3)
	for range want {
		in.next(t)
	}
	for range want {
		d := in.next(t)
		if !d.Redelivered {
			t.Errorf("the second delivery of %s is not said to be one", d.Body)
		}
		ack(t, d)
	}
	in.sawAll(t, want)
}

func testMaxInFlight(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	in := subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders", MaxInFlight: 3})
	want := publish(t, s, "tickets", 9)
	for range 3 {
		batch := []event.Delivery{in.next(t), in.next(t), in.next(t)}
		select {
		case d := <-in.in:
			t.Fatalf("%s was delivered while three are in flight", d.Body)
		case <-time.After(50 * time.Millisecond):
		}
		for _, d := range batch {
			ack(t, d)
		}
	}
	in.sawAll(t, want)
}

func testLarge(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	in := subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders"})

	rng := rand.New(rand.NewPCG(1, 2))
	body := make([]byte, 1_000_000)
	for i := range body {
		body[i] = byte(rng.Uint32())
	}
	if err := publishOne(t, s, "tickets", body); err != nil {
		t.Fatalf("publish %d bytes: %v", len(body), err)
	}
	d := in.next(t)
	if !bytes.Equal(d.Body, body) {
		t.Errorf("a message of %d bytes arrived altered, with %d bytes", len(body), len(d.Body))
	}
	ack(t, d)

	if err := publishOne(t, s, "tickets", make([]byte, 1<<20+1)); err == nil {
		t.Error("a message of more than 1 MiB was accepted")
	}
	if err := publishOne(t, s, "tickets", nil); err != nil {
		t.Errorf("publish an empty message after one that was refused: %v", err)
	}
	if d := in.next(t); len(d.Body) != 0 {
		t.Errorf("got %d bytes, want the empty message", len(d.Body))
	}
	if lost(s) {
		t.Error("a message that was refused cost the session")
	}
}

func testStop(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	want := publish(t, s, "tickets", 10)
	sub := event.Subscription{Stream: "tickets", Group: "orders"}

	entered, stopped := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var running, calls atomic.Int32
	stop, err := s.Subscribe(t.Context(), sub, func(event.Delivery) {
		calls.Add(1)
		running.Add(1)
		defer running.Add(-1)
		once.Do(func() {
			close(entered)
			select {
			case <-stopped:
				t.Error("stop returned while a message was being delivered")
			case <-time.After(50 * time.Millisecond):
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	await(t, entered, "the first delivery")
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	close(stopped)
	if n := running.Load(); n != 0 {
		t.Errorf("%d deliveries are running after stop", n)
	}
	before := calls.Load()
	if err := stop(); err != nil {
		t.Errorf("stop a second time: %v", err)
	}

	// The group goes on where it was, in the same session.
	in := subscribe(t, s, sub)
	for len(in.seen) < len(want) {
		ack(t, in.next(t))
	}
	in.sawAll(t, want)
	if after := calls.Load(); after != before {
		t.Errorf("%d messages were delivered to a subscription that had stopped", after-before)
	}
}

func testConcurrentStop(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	sub := event.Subscription{Stream: "tickets", Group: "orders", MaxInFlight: 4}
	var seen sync.Map
	var members sync.WaitGroup
	for range 8 {
		members.Go(func() {
			for range 5 {
				stop, err := s.Subscribe(t.Context(), sub, func(d event.Delivery) {
					if d.Ack() == nil {
						seen.Store(string(d.Body), true)
					}
				})
				if err != nil {
					t.Errorf("subscribe: %v", err)
					return
				}
				if err := stop(); err != nil {
					t.Errorf("stop: %v", err)
				}
			}
		})
	}
	want := publish(t, s, "tickets", 200)
	members.Wait()

	in := subscribe(t, s, sub)
	missing := func() (n int) {
		for _, body := range want {
			if _, ok := seen.Load(body); !ok {
				n++
			}
		}
		return n
	}
	for missing() > 0 {
		d := in.next(t)
		seen.Store(string(d.Body), true)
		ack(t, d)
	}
}

// burst publishes n messages without waiting and returns their answers.
type burst struct {
	mu       sync.Mutex
	answered sync.WaitGroup
	times    map[string]int
	stored   []string // acknowledged without error
}

func (b *burst) publish(s event.Session, stream, name string, n int) {
	b.times = make(map[string]int)
	b.answered.Add(n)
	for i := range n {
		body := fmt.Sprintf("%s-%d", name, i)
		s.Publish(context.Background(), stream, []byte(body), func(err error) {
			b.mu.Lock()
			b.times[body]++
			first := b.times[body] == 1
			if first && err == nil {
				b.stored = append(b.stored, body)
			}
			b.mu.Unlock()
			if first {
				b.answered.Done()
			}
		})
	}
}

func (b *burst) check(t *testing.T, n int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.times) != n {
		t.Errorf("%d of %d publishes were answered", len(b.times), n)
	}
	for body, times := range b.times {
		if times != 1 {
			t.Errorf("the publish of %s was answered %d times", body, times)
		}
	}
}

func testCloseAnswers(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	const n = 500
	var b burst
	b.publish(s, "tickets", "burst", n)
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	b.check(t, n)
	if err := publishOne(t, s, "tickets", []byte("late")); err == nil {
		t.Error("a closed session takes messages")
	}
	in := subscribe(t, connect(t, h, "two"), event.Subscription{Stream: "tickets", Group: "orders"})
	in.receive(t, b.stored)
}

func testLossAnswers(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	const n = 2000
	var b burst
	first, killed := make(chan struct{}), make(chan struct{})
	s.Publish(t.Context(), "tickets", []byte("first"), func(error) { close(first) })
	go func() {
		defer close(killed)
		<-first
		h.Kill()
	}()
	b.publish(s, "tickets", "burst", n)
	done := make(chan struct{})
	go func() { b.answered.Wait(); close(done) }()
	await(t, done, "the answer to every publish")
	await(t, s.Lost(), "the loss of the session")
	if err := s.Close(); err != nil {
		t.Errorf("close a lost session: %v", err)
	}
	b.check(t, n)
	await(t, killed, "the end of the server")
	h.Restart()
	in := subscribe(t, connect(t, h, "one"), event.Subscription{Stream: "tickets", Group: "orders"})
	in.receive(t, b.stored)
}

func testLost(t *testing.T, h Harness) {
	s := connect(t, h, "one")
	in := subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders"})
	publish(t, s, "tickets", 1)
	d := in.next(t)
	if lost(s) {
		t.Fatal("a healthy session is said to be lost")
	}
	h.Kill()
	await(t, s.Lost(), "the loss of the session")

	if err := publishOne(t, s, "tickets", []byte("late")); err == nil {
		t.Error("a lost session takes messages")
	}
	if _, err := s.Subscribe(t.Context(), event.Subscription{Stream: "tickets", Group: "late"}, func(event.Delivery) {}); err == nil {
		t.Error("a lost session takes subscriptions")
	}
	if err := d.Ack(); err == nil {
		t.Error("a lost session takes acknowledgements")
	}
	if err := in.stop(); err != nil {
		t.Errorf("stop a subscription of a lost session: %v", err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("close a lost session: %v", err)
		}
	}
	if s, err := h.Broker("one").Connect(t.Context()); err == nil {
		s.Close()
		t.Error("one can connect to a server that is dead")
	}
	h.Restart()
	connect(t, h, "one")
}

func testKill(t *testing.T, h Harness) {
	sub := event.Subscription{Stream: "tickets", Group: "orders", MaxInFlight: 1}
	s := connect(t, h, "one")
	in := subscribe(t, s, sub)
	want := publish(t, s, "tickets", 10)
	for range 5 {
		ack(t, in.next(t))
	}
	acked := maps.Clone(in.seen)
	in.next(t)

	h.Kill()
	await(t, s.Lost(), "the loss of the session")
	s.Close()
	h.Restart()

	// What was not acknowledged comes again, and all that follows. The server
	// may have forgotten the last acknowledgements, and even the deliveries.
	s = connect(t, h, "one")
	want = append(want, publish(t, s, "tickets", 10)...)
	subscribe(t, s, sub).receive(t, slices.DeleteFunc(slices.Clone(want), func(body string) bool { return acked[body] > 0 }))

	// And a group that comes now finds all of it.
	subscribe(t, s, event.Subscription{Stream: "tickets", Group: "payments"}).receive(t, want)
}

func testContext(t *testing.T, h Harness) {
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := h.Broker("early").Connect(done); !errors.Is(err, context.Canceled) {
		if err == nil {
			s.Close()
		}
		t.Errorf("connect with a cancelled context: %v, want context.Canceled", err)
	}
	s := connect(t, h, "one")
	answers := make(chan error, 2)
	s.Publish(done, "tickets", []byte("cancelled"), func(err error) { answers <- err })
	if err := <-answers; !errors.Is(err, context.Canceled) {
		t.Errorf("publish with a cancelled context: %v, want context.Canceled", err)
	}
	if _, err := s.Subscribe(done, event.Subscription{Stream: "tickets", Group: "orders"}, func(event.Delivery) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("subscribe with a cancelled context: %v, want context.Canceled", err)
	}

	// A session outlives the context it was opened with.
	opening, opened := context.WithTimeout(t.Context(), patience)
	s, err := h.Broker("two").Connect(opening)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	opened()
	in := subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders"})
	want := publish(t, s, "tickets", 5)
	in.receive(t, want)
}

func testLeaks(t *testing.T, h Harness) {
	// What the server itself runs is no leak: warm it up first.
	sub := event.Subscription{Stream: "tickets", Group: "orders"}
	session := func() event.Session {
		s := connect(t, h, "one")
		in := subscribe(t, s, sub)
		publish(t, s, "tickets", 10)
		in.next(t)
		return s
	}
	session().Close()
	before := goleak.IgnoreCurrent()
	for range 3 {
		session().Close()
	}
	goleak.VerifyNone(t, before)

	s := session()
	h.Kill()
	await(t, s.Lost(), "the loss of the session")
	s.Close()
	goleak.VerifyNone(t, before)
	h.Restart()
}

// connect opens a session, tries until it can, and closes it with t.
func connect(t *testing.T, h Harness, clientID string) event.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b := h.Broker(clientID)
	for {
		s, err := b.Connect(ctx)
		if err == nil {
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close the session of %s: %v", clientID, err)
				}
			})
			return s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("connect as %s: %v", clientID, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// publish stores n messages and returns them.
func publish(t *testing.T, s event.Session, stream string, n int) []string {
	t.Helper()
	answers := make(chan error, n)
	var bodies []string
	for i := range n {
		body := fmt.Sprintf("%s-%s-%d", stream, time.Now().Format(time.StampNano), i)
		bodies = append(bodies, body)
		s.Publish(t.Context(), stream, []byte(body), func(err error) { answers <- err })
	}
	for range n {
		if err := receive(t, answers, "the answer to a publish"); err != nil {
			t.Fatalf("publish to %s: %v", stream, err)
		}
	}
	return bodies
}

func publishOne(t *testing.T, s event.Session, stream string, body []byte) error {
	t.Helper()
	answer := make(chan error, 2)
	s.Publish(t.Context(), stream, body, func(err error) { answer <- err })
	return receive(t, answer, "the answer to a publish")
}

// inbox is what a subscription delivered.
type inbox struct {
	in   chan event.Delivery
	seen map[string]int
	stop func() error
}

func subscribe(t *testing.T, s event.Session, sub event.Subscription) *inbox {
	t.Helper()
	in := &inbox{in: make(chan event.Delivery, 10_000), seen: make(map[string]int)}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stop, err := s.Subscribe(ctx, sub, func(d event.Delivery) { in.in <- d })
	if err != nil {
		t.Fatalf("subscribe %s to %s: %v", sub.Group, sub.Stream, err)
	}
	in.stop = stop
	return in
}

func (in *inbox) next(t *testing.T) event.Delivery {
	t.Helper()
	return in.note(receive(t, in.in, "a delivery"))
}

func (in *inbox) note(d event.Delivery) event.Delivery {
	in.seen[string(d.Body)]++
	return d
}

// receive acknowledges what comes until all of want has come.
func (in *inbox) receive(t *testing.T, want []string) {
	t.Helper()
	for _, body := range want {
		for in.seen[body] == 0 {
			ack(t, in.next(t))
		}
	}
}

// sawAll checks that in.seen has all of want.
func (in *inbox) sawAll(t *testing.T, want []string) {
	t.Helper()
	for _, body := range want {
		if in.seen[body] == 0 {
			t.Errorf("%s was not delivered", body)
		}
	}
}

func ack(t *testing.T, d event.Delivery) {
	t.Helper()
	if err := d.Ack(); err != nil {
		t.Fatalf("acknowledge %.100s: %v", d.Body, err)
	}
}

func lost(s event.Session) bool { return closed(s.Lost()) }

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	receive(t, c, what)
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
