// Package eventtest helps to test what is built on package event, and the
// brokers below it: an in-memory [Broker] whose faults are chosen and repeatable,
// and [TestBroker], the conformance suite that every broker passes.
package eventtest

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/event"
)

// MaxBody is the largest message, in bytes, that a Broker stores: what NATS
// Streaming and JetStream carry with their default settings.
const MaxBody = 1_048_476

var (
	errDown    = errors.New("eventtest: the broker is down")
	errClosed  = errors.New("eventtest: the broker is closed")
	errLost    = errors.New("eventtest: the session is lost")
	errStopped = errors.New("eventtest: the subscription is stopped")
	errTimeout = errors.New("eventtest: no acknowledgement of the publish in time")
)

// Faults says how often a Broker misbehaves. The fields without a unit are
// probabilities from 0 (never) to 1 (always); the zero value does no harm.
//
// What happens to a message depends on the seed, its position in its stream and
// how often it was tried, not on the scheduling of goroutines: the same seed
// and the same traffic meet the same faults.
type Faults struct {
	Seed uint64

	LosePublish    float64 // a published message is not stored, and its publisher told so
	LosePublishAck float64 // it is stored, but its publisher is told that it is not
	LoseAck        float64 // a listener's acknowledgement vanishes: the message comes again after AckWait
	Duplicate      float64 // a message is delivered twice, if there are two members of its group perhaps to both
	Reorder        float64 // a message is held back for up to MaxDelay (10 ms if that is zero) and overtaken
	Disconnect     float64 // a publish, or an acknowledgement, costs its session

	MaxDelay time.Duration // deliveries and acknowledgements of publishes are late by up to this
}

// Broker is an [event.Broker] in memory. Streams and the positions of durable
// groups live as long as the Broker, whatever happens to its sessions. It may
// be used inside a testing/synctest bubble if it is made, and closed, there.
type Broker struct {
	mu       sync.Mutex
	faults   Faults
	down     bool
	closed   bool
	streams  []*stream
	sessions []*session // alive, oldest first
	running  sync.WaitGroup
}

var _ event.Broker = (*Broker)(nil)

// NewBroker returns an empty broker with these faults. Close it at the end.
func NewBroker(f Faults) *Broker { return &Broker{faults: f} }

// SetFaults changes the faults from here on.
func (b *Broker) SetFaults(f Faults) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = f
}

// Name implements [event.Broker].
func (b *Broker) Name() string { return "memory" }

// Named returns b under another name, for a test that has two.
func Named(name string, b event.Broker) event.Broker { return named{b, name} }

type named struct {
	event.Broker
	name string
}

func (n named) Name() string { return n.name }

// Connect implements [event.Broker]. It fails while the broker is down.
func (b *Broker) Connect(ctx context.Context) (event.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, errClosed
	case b.down:
		return nil, errDown
	}
	s := &session{
		b:      b,
		lost:   make(chan struct{}),
		wake:   make(chan struct{}, 1),
		window: make(chan struct{}, 1024),
	}
	b.sessions = append(b.sessions, s)
	s.start(s.answer)
	return s, nil
}

// Down ends every session and refuses new ones, as a server that was killed.
// What is stored stays, and so do the positions of the groups.
func (b *Broker) Down() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
	b.disconnect()
}

// Up lets sessions connect again after Down.
func (b *Broker) Up() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = false
}

// Disconnect ends every session; new ones may connect at once.
func (b *Broker) Disconnect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disconnect()
}

// DisconnectOne ends the n-th oldest session, counted modulo their number, and
// says whether there was one.
func (b *Broker) DisconnectOne(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sessions) == 0 || n < 0 {
		return false
	}
	b.sessions[n%len(b.sessions)].die()
	return true
}

// Wipe ends every session and forgets all messages and positions, as a broker
// that lost its disk.
func (b *Broker) Wipe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disconnect()
	b.forget()
}

// Close ends every session, waits for the callbacks that are running and
// leaves no goroutine behind. The broker cannot be used again.
func (b *Broker) Close() {
	b.mu.Lock()
	b.closed = true
	b.disconnect()
	b.forget()
	b.mu.Unlock()
	b.running.Wait()
}

// Stored returns the messages of a stream in the order in which they arrived.
func (b *Broker) Stored(stream string) [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.stream(stream).stored)
}

// Backlog returns how many messages of the stream the group has not
// acknowledged yet.
func (b *Broker) Backlog(stream, group string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.stream(stream).group(group)
	return len(g.stream.stored) - g.next + len(g.open)
}

// What follows runs with b.mu held unless it says otherwise.

func (b *Broker) disconnect() {
	for len(b.sessions) > 0 {
		b.sessions[0].die()
	}
}

func (b *Broker) forget() {
	for _, st := range b.streams {
		for _, g := range st.groups {
			for _, m := range g.open {
				m.timer.Stop()
			}
			g.open, g.again = nil, nil
		}
	}
	b.streams = nil
}

func (b *Broker) stream(name string) *stream {
	for _, st := range b.streams {
		if st.name == name {
			return st
		}
	}
	st := &stream{b: b, name: name}
	b.streams = append(b.streams, st)
	return st
}

// roll returns a number from 0 up to 1 that depends on the seed and on what is
// being decided, and on nothing else.
func (b *Broker) roll(what, stream, group string, n, try int) float64 {
	h := fnv.New64a()
	var num [24]byte
	binary.LittleEndian.PutUint64(num[0:], b.faults.Seed)
	binary.LittleEndian.PutUint64(num[8:], uint64(n))
	binary.LittleEndian.PutUint64(num[16:], uint64(try))
	h.Write(num[:])
	h.Write([]byte(what + "\x00" + stream + "\x00" + group))
	x := h.Sum64()
	// FNV hardly stirs its high bits for the last bytes: finish as splitmix64 does.
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return float64((x^x>>31)>>11) / (1 << 53)
}

func (b *Broker) delay(what, stream, group string, n, try int) time.Duration {
	if b.faults.MaxDelay <= 0 {
		return 0
	}
	return time.Duration(b.roll(what, stream, group, n, try) * float64(b.faults.MaxDelay))
}

// stream is a channel of the broker with all its messages.
type stream struct {
	b         *Broker
	name      string
	stored    [][]byte
	published int // how often somebody published, stored or not
	groups    []*group
}

func (st *stream) group(name string) *group {
	for _, g := range st.groups {
		if g.name == name {
			return g
		}
	}
	g := &group{stream: st, name: name, open: map[int]*message{}}
	st.groups = append(st.groups, g)
	return g
}

// group is a durable queue group: a position in its stream, shared by members.
type group struct {
	stream  *stream
	name    string
	next    int              // the oldest message that no member has been given
	open    map[int]*message // those before next that are not acknowledged, by index
	again   []*message       // those of open that wait for a member
	members []*member
	turn    int
}

// message is a stored message that a group has not acknowledged.
type message struct {
	index  int
	try    int     // how often it was given to a member
	holder *member // nil while it is in group.again or held back
	timer  *time.Timer
}

// dispatch gives out messages as long as there are some and members have room.
func (g *group) dispatch() {
	b := g.stream.b
	for {
		m := g.roomiest()
		if m == nil {
			return
		}
		if len(g.again) > 0 {
			msg := g.again[0]
			g.again = g.again[1:]
			g.give(m, msg)
			continue
		}
		if g.next == len(g.stream.stored) {
			return
		}
		msg := &message{index: g.next}
		g.open[msg.index] = msg
		g.next++
		if b.roll("reorder", g.stream.name, g.name, msg.index, 0) < b.faults.Reorder {
			longest := cmp.Or(b.faults.MaxDelay, 10*time.Millisecond)
			held := time.Duration(b.roll("hold", g.stream.name, g.name, msg.index, 0) * float64(longest))
			msg.timer = time.AfterFunc(held, func() { g.release(msg, 0) })
			continue
		}
		g.give(m, msg)
	}
}

// roomiest returns the next member in turn that may have another message.
func (g *group) roomiest() *member {
	for i := range g.members {
		m := g.members[(g.turn+i)%len(g.members)]
		if m.inFlight < m.maxInFlight {
			g.turn = (g.turn + i + 1) % len(g.members)
			return m
		}
	}
	return nil
}

func (g *group) give(m *member, msg *message) {
	b, st := g.stream.b, g.stream
	msg.holder = m
	msg.try++
	m.inFlight++
	try := msg.try
	msg.timer = time.AfterFunc(m.ackWait, func() { g.release(msg, try) })

	at := time.Now().Add(b.delay("deliver", st.name, g.name, msg.index, try))
	m.enqueue(parcel{at: at, Delivery: event.Delivery{
		Body:        st.stored[msg.index],
		Redelivered: try > 1,
		Ack:         func() error { return m.ack(msg, try) },
	}})
	if b.roll("duplicate", st.name, g.name, msg.index, try) < b.faults.Duplicate {
		other := g.members[g.turn%len(g.members)]
		other.enqueue(parcel{at: at, Delivery: event.Delivery{
			Body:        st.stored[msg.index],
			Redelivered: true,
			Ack:         func() error { return m.ack(msg, try) },
		}})
	}
}

// release makes msg available again, unless it went on since its try-th
// delivery. It takes b.mu itself.
func (g *group) release(msg *message, try int) {
	b := g.stream.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if g.open[msg.index] != msg || msg.try != try || slices.Contains(g.again, msg) {
		return
	}
	g.takeBack(msg)
	g.dispatch()
}

func (g *group) takeBack(msg *message) {
	if msg.holder != nil {
		msg.holder.inFlight--
		msg.holder = nil
	}
	msg.timer.Stop()
	g.again = append(g.again, msg)
}

// member is one subscription of a session.
type member struct {
	s           *session
	g           *group
	deliver     func(event.Delivery)
	maxInFlight int
	ackWait     time.Duration
	inFlight    int
	queue       []parcel
	wake        chan struct{}
	left        chan struct{} // closed when it has left its group
	done        chan struct{} // closed when no deliver is running or will run
}

type parcel struct {
	event.Delivery
	at time.Time
}

func (m *member) enqueue(p parcel) {
	m.queue = append(m.queue, p)
	poke(m.wake)
}

// leave ends the membership: what it holds goes back to the group.
func (m *member) leave() {
	if closed(m.left) {
		return
	}
	close(m.left)
	m.queue = nil
	m.g.members = slices.DeleteFunc(m.g.members, func(o *member) bool { return o == m })
	m.s.members = slices.DeleteFunc(m.s.members, func(o *member) bool { return o == m })
	var held []*message
	for _, msg := range m.g.open {
		if msg.holder == m {
			held = append(held, msg)
		}
	}
	slices.SortFunc(held, func(a, b *message) int { return cmp.Compare(a.index, b.index) })
	for _, msg := range held {
		m.g.takeBack(msg)
	}
	m.g.dispatch()
}

// run delivers until the member has left. It takes b.mu itself.
func (m *member) run() {
	defer close(m.done)
	for {
		m.s.b.mu.Lock()
		var p parcel
		waiting := len(m.queue) > 0
		if waiting {
			p, m.queue = m.queue[0], m.queue[1:]
		}
		m.s.b.mu.Unlock()
		if !waiting {
			select {
			case <-m.wake:
			case <-m.left:
				return
			}
			continue
		}
		if late := time.Until(p.at); late > 0 {
			timer := time.NewTimer(late)
			select {
			case <-timer.C:
			case <-m.left:
				timer.Stop()
				return
			}
		}
		m.deliver(p.Delivery)
	}
}

// ack acknowledges the try-th delivery of msg, made to m. It takes b.mu itself.
func (m *member) ack(msg *message, try int) error {
	b, g := m.s.b, m.g
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case closed(m.s.lost):
		return errLost
	case closed(m.left):
		return errStopped
	}
	if b.roll("disconnect ack", g.stream.name, g.name, msg.index, try) < b.faults.Disconnect {
		m.s.die()
		return errLost
	}
	if g.open[msg.index] != msg || msg.holder != m {
		return nil // it was acknowledged, or has been given to another meanwhile
	}
	if b.roll("ack", g.stream.name, g.name, msg.index, try) < b.faults.LoseAck {
		return nil
	}
	msg.timer.Stop()
	delete(g.open, msg.index)
	m.inFlight--
	g.dispatch()
	return nil
}

// session implements [event.Session].
type session struct {
	b       *Broker
	lost    chan struct{}
	window  chan struct{} // holds an element for every publish under way
	running sync.WaitGroup
	wake    chan struct{}

	// Guarded by b.mu.
	members []*member
	open    []*publication // whose fate is decided but not due yet, oldest first
	due     []*publication
}

// publication is a publish whose publisher is to be told.
type publication struct {
	acked func(error)
	err   error
	timer *time.Timer
}

// start runs f as a part of the session, which is alive.
func (s *session) start(f func()) {
	s.b.running.Add(1)
	s.running.Go(func() {
		defer s.b.running.Done()
		f()
	})
}

// Publish implements [event.Session].
func (s *session) Publish(ctx context.Context, stream string, body []byte, acked func(error)) {
	err := s.admit(ctx, stream, body)
	if err == nil {
		err = s.publish(stream, slices.Clone(body), acked)
	}
	if err != nil {
		acked(fmt.Errorf("publish to %s: %w", stream, err))
	}
}

// admit waits for a place in the window. It takes no lock.
func (s *session) admit(ctx context.Context, stream string, body []byte) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case closed(s.lost):
		return errLost
	case stream == "":
		return errors.New("the stream has no name")
	case len(body) > MaxBody:
		return fmt.Errorf("the message of %d bytes is larger than the %d a broker takes", len(body), MaxBody)
	}
	select {
	case s.window <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.lost:
		return errLost
	}
}

// publish stores body, or does not, and sees to it that acked is called. It
// takes b.mu itself. When it returns an error acked is the caller's to call.
func (s *session) publish(name string, body []byte, acked func(error)) error {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if closed(s.lost) {
		<-s.window
		return errLost
	}
	st := b.stream(name)
	n := st.published
	st.published++

	p := &publication{acked: acked}
	dies := b.roll("disconnect publish", name, "", n, 0) < b.faults.Disconnect
	stored := true
	switch {
	case dies:
		stored, p.err = b.roll("stored", name, "", n, 0) < 0.5, errLost
	case b.roll("publish", name, "", n, 0) < b.faults.LosePublish:
		stored, p.err = false, errTimeout
	case b.roll("publish ack", name, "", n, 0) < b.faults.LosePublishAck:
		p.err = errTimeout
	}
	if stored {
		st.stored = append(st.stored, body)
		for _, g := range st.groups {
			g.dispatch()
		}
	}
	if late := b.delay("acked", name, "", n, 0); late > 0 && !dies {
		s.open = append(s.open, p)
		p.timer = time.AfterFunc(late, func() { s.ripen(p) })
	} else {
		s.due = append(s.due, p)
		poke(s.wake)
	}
	if dies {
		s.die()
	}
	return nil
}

// ripen makes p due, unless the session's death did. It takes b.mu itself.
func (s *session) ripen(p *publication) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if i := slices.Index(s.open, p); i >= 0 {
		s.open = slices.Delete(s.open, i, i+1)
		s.due = append(s.due, p)
		poke(s.wake)
	}
}

// answer tells publishers how it went, until the session is lost and all have
// been told. It takes b.mu itself.
func (s *session) answer() {
	for {
		s.b.mu.Lock()
		due := s.due
		s.due = nil
		over := closed(s.lost) // nothing becomes due after that
		s.b.mu.Unlock()
		for _, p := range due {
			<-s.window
			p.acked(p.err)
		}
		if over {
			return
		}
		if len(due) == 0 {
			<-s.wake
		}
	}
}

// Subscribe implements [event.Session].
func (s *session) Subscribe(ctx context.Context, sub event.Subscription, deliver func(event.Delivery)) (func() error, error) {
	if sub.Stream == "" || sub.Group == "" {
		return nil, fmt.Errorf("eventtest: a subscription needs a stream and a group, not %q and %q", sub.Stream, sub.Group)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if closed(s.lost) {
		return nil, errLost
	}
	m := &member{
		s:           s,
		g:           s.b.stream(sub.Stream).group(sub.Group),
		deliver:     deliver,
		maxInFlight: cmp.Or(sub.MaxInFlight, 256),
		ackWait:     max(cmp.Or(sub.AckWait, 30*time.Second), time.Second),
		wake:        make(chan struct{}, 1),
		left:        make(chan struct{}),
		done:        make(chan struct{}),
	}
	s.members = append(s.members, m)
	m.g.members = append(m.g.members, m)
	s.start(m.run)
	m.g.dispatch()
	return func() error {
		s.b.mu.Lock()
		m.leave()
		s.b.mu.Unlock()
		<-m.done
		return nil
	}, nil
}

// Lost implements [event.Session].
func (s *session) Lost() <-chan struct{} { return s.lost }

// Close implements [event.Session].
func (s *session) Close() error {
	s.b.mu.Lock()
	s.die()
	s.b.mu.Unlock()
	s.running.Wait()
	return nil
}

// die ends the session and waits for nothing.
func (s *session) die() {
	if closed(s.lost) {
		return
	}
	close(s.lost)
	s.b.sessions = slices.DeleteFunc(s.b.sessions, func(o *session) bool { return o == s })
	for len(s.members) > 0 {
		s.members[0].leave()
	}
	for _, p := range s.open {
		p.timer.Stop()
		p.err = errLost
	}
	s.due = append(s.due, s.open...)
	s.open = nil
	poke(s.wake)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
