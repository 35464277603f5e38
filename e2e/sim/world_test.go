package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

var background = context.Background()

// world is one run of the application.
type world struct {
	history
	seed     uint64
	rng      *rand.Rand // of the driver
	verbose  bool       // what the services log is noted, too
	weather  weather
	window   time.Duration // of an order
	late     time.Duration // after which the payment provider answers to tok_timeout
	attempts int           // at an event
	calm     bool          // nothing fails in this run

	network  *network
	brokers  map[string]*eventtest.Broker // by name
	uses     []string                     // what services are started with, at first
	move     *move                        // from one broker to the other; nil for none
	services map[string]*service
	faults   faults
	market   market
	running  sync.WaitGroup
	wiped    bool // a broker has lost what it had
	poison   int  // messages that are no events
	forged   int  // events of no producer

	finding  sync.Mutex // guards problems
	problems []string
	traced   map[string]bool // keys whose events are in the history
}

func newWorld(seed uint64, disks map[string]*disk) *world {
	w := &world{seed: seed, network: &network{hosts: map[string]*listener{}}, services: map[string]*service{}, traced: map[string]bool{}}
	w.history.began = time.Now()
	w.rng = w.random("driver")
	w.weather = drawWeather(w.rng)
	w.window = []time.Duration{2 * time.Second, 5 * time.Second, 15 * time.Second}[w.rng.IntN(3)]
	w.attempts = []int{3, 12}[w.rng.IntN(2)]
	w.late = []time.Duration{time.Second, time.Second, 4 * time.Second}[w.random("late").IntN(3)] // 3 s are waited for it
	w.calm = w.weather.statement == 0 && w.weather.harm == 0
	w.brokers = map[string]*eventtest.Broker{}
	for _, name := range brokerNames {
		w.brokers[name] = eventtest.NewBroker(eventtest.Faults{})
	}
	switch n := w.rng.IntN(10); {
	case n < 6:
		w.uses = []string{"stan"}
	case n < 8:
		w.uses = []string{"stan", "jetstream"}
	default:
		w.uses = []string{"stan"}
		w.move = &move{begin: w.rng.IntN(20)}
	}
	for _, name := range names {
		w.services[name] = &service{world: w, name: name, disk: disks[name], uses: w.uses}
		if err := disks[name].empty(); err != nil {
			w.problem("empty the disk of %s: %v", name, err)
		}
	}
	return w
}

// random returns a source of decisions of its own for each purpose.
func (w *world) random(purpose string) *rand.Rand {
	h := fnv.New64a()
	_, _ = io.WriteString(h, purpose)
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

func (w *world) problem(format string, args ...any) {
	w.finding.Lock()
	defer w.finding.Unlock()
	text := fmt.Sprintf(format, args...)
	w.problems = append(w.problems, text)
	w.note("check", "finds", "%s", text)
}

func (w *world) environ(name string) []string {
	level := "ERROR"
	if w.verbose {
		level = "DEBUG"
	}
	return []string{
		"DATABASE_URL=sqlite::memory:", "HTTP_ADDR=" + name + ":80", "ADMIN_ADDR=" + name + "-admin:80",
		"SESSION_JWKS_URL=http://auth/.well-known/jwks.json", "POD_NAME=" + name,
		"DRAIN_DELAY=0s", "LOG_LEVEL=" + level, "LOG_FORMAT=text", "EVENT_JOURNAL=true", "EVENT_DRAIN_TIMEOUT=1s",
		"EVENT_ACK_WAIT=3s", "EVENT_RETRY_FIRST=50ms", "EVENT_RETRY_MOST=2s", fmt.Sprintf("EVENT_ATTEMPTS=%d", w.attempts),
		fmt.Sprintf("ORDER_EXPIRATION=%s", w.window), "PAYMENT_RECOVERY=1s", "PAYMENT_TIMEOUT=3s", fmt.Sprintf("SANDBOX_DELAY=%s", w.late),
		// Hashing is made cheap: what it costs is not what is tested.
		"PASSWORD_MEMORY=8", "PASSWORD_ITERATIONS=1", "PASSWORD_AT_ONCE=4",
	}
}

// run is a whole run.
func (w *world) run() {
	o := w.observe()
	defer o.close()
	w.live(o)
	w.market.waiting.Wait()
	w.heal()
	w.rest(o)
	w.check(o)
	for _, name := range names {
		if p := w.services[name].process; p != nil {
			p.stop()
		}
	}
	w.running.Wait()
	for _, b := range w.brokers {
		b.Close()
	}
	time.Sleep(time.Minute) // what is left of dead processes ends
}

// source is a source of bytes for ids, which so depend on the seed.
type source struct{ rng *rand.Rand }

func (s source) Read(to []byte) (int, error) {
	for i := range to {
		to[i] = byte(s.rng.Uint32())
	}
	return len(to), nil
}

// pick returns one of some, or the zero value if there is none.
func pick[T any](rng *rand.Rand, from []T) (one T) {
	if len(from) > 0 {
		one = from[rng.IntN(len(from))]
	}
	return one
}

// live is the part of a run in which things happen.
func (w *world) live(o *observer) {
	w.note("world", "begins", "%+v, orders last %v, %d attempts, brokers %v, move %v", w.weather, w.window, w.attempts, w.uses, w.move != nil)
	for _, name := range names {
		w.services[name].start()
	}
	time.Sleep(100 * time.Millisecond)
	w.faults.begin(w.weather)
	w.setFaults(w.weather.broker)
	for i := range 3 + w.rng.IntN(3) {
		u := &user{name: string(rune('a'+i)) + "-user"}
		w.market.users = append(w.market.users, u)
		w.signUp(u)
	}
	for step := range 20 + w.rng.IntN(40) {
		pause := time.Duration(w.rng.Int64N(int64(300 * time.Millisecond)))
		if w.rng.IntN(15) == 0 {
			pause += time.Duration(w.rng.Int64N(int64(3 * time.Second)))
		}
		if w.rng.IntN(3) == 0 {
			pause = time.Duration(w.rng.Int64N(int64(3 * time.Millisecond)))
		}
		time.Sleep(pause + 1)
		w.revive()
		w.move.step(w, o, step)
		if w.rng.IntN(100) < w.weather.harm {
			w.harm(pick(w.rng, w.weather.kinds))
		} else {
			w.act()
		}
	}
}

// act has users do something.
func (w *world) act() {
	m, rng := &w.market, w.rng
	m.mu.Lock()
	u, t, o := pick(rng, m.users), pick(rng, m.tickets), pick(rng, m.orders)
	if n := len(m.tickets); n > 3 && rng.IntN(2) == 0 {
		t = m.tickets[n-1-rng.IntN(3)]
	}
	if n := len(m.orders); n > 2 && rng.IntN(3) > 0 {
		o = m.orders[n-1-rng.IntN(2)]
	}
	var signedIn []*user
	for _, u := range m.users {
		if u.cookie != "" {
			signedIn = append(signedIn, u)
		}
	}
	m.mu.Unlock()
	if len(signedIn) > 0 && rng.IntN(20) > 0 {
		u = pick(rng, signedIn)
	}
	price := 100 + rng.IntN(10_000)
	switch n := rng.IntN(100); {
	case t == nil || n < 12:
		w.offer(u, price)
	case n < 20:
		w.edit(t, price)
	case n < 24:
		w.withdraw(t)
	case n < 40:
		w.order(u, t)
	case n < 52: // everybody wants the same ticket, while its seller does something with it
		for range 2 + rng.IntN(3) {
			w.order(pick(rng, m.users), t)
		}
		switch rng.IntN(4) {
		case 0:
			w.withdraw(t)
		case 1:
			w.edit(t, price)
		}
	case n < 56:
		w.browse(u)
	case o == nil:
		w.order(u, t)
	case n < 75:
		w.pay(o, pick(rng, tokens))
	case n < 82:
		for range 2 + rng.IntN(2) {
			w.pay(o, pick(rng, tokens))
		}
		if rng.IntN(3) == 0 {
			w.cancel(o)
		}
	case n < 88: // at the last moment
		wait := time.Until(o.expires) - time.Duration(rng.Int64N(int64(100*time.Millisecond)))
		token := pick(rng, tokens)
		m.waiting.Go(func() {
			time.Sleep(wait)
			w.pay(o, token)
		})
	case n < 95:
		w.cancel(o)
	default:
		w.look(o)
	}
}

// harm does harm of a kind.
func (w *world) harm(kind string) {
	s, rng := w.services[pick(w.rng, names)], w.rng
	name := pick(rng, s.uses)
	broker := w.brokers[name]
	switch kind {
	case "kill":
		w.note(s.name, "harm", "kill")
		if s.process != nil {
			s.process.kill()
		}
	case "kill at":
		n := rng.IntN(60)
		w.note(s.name, "harm", "kill at step %d from here", n)
		if s.process != nil {
			s.process.killAfter(n)
		}
	case "stop":
		w.note(s.name, "harm", "stop")
		if s.process != nil {
			s.process.stop()
		}
	case "blackout":
		w.note("world", "harm", "blackout")
		for _, name := range names {
			if p := w.services[name].process; p != nil {
				p.kill()
			}
		}
		if rng.IntN(2) == 0 {
			broker.Wipe()
			w.wiped = true
		}
	case "down":
		d := time.Duration(rng.Int64N(int64(4 * time.Second)))
		w.note(name, "harm", "down for %v", d)
		broker.Down()
		w.market.waiting.Go(func() {
			time.Sleep(d)
			w.up(name)
		})
	case "disconnect":
		w.note(name, "harm", "disconnects one")
		broker.DisconnectOne(rng.IntN(4))
	case "disconnect all":
		w.note(name, "harm", "disconnects all")
		broker.Disconnect()
	case "wipe":
		w.note(name, "harm", "wipe")
		broker.Wipe()
		w.wiped = true
	case "curse":
		t := trouble{service: s.name, text: pick(rng, curses[s.name]), chance: 1, length: time.Duration(rng.Int64N(int64(5 * time.Second)))}
		w.note(s.name, "harm", "curse %v", t)
		w.faults.add(t)
	case "trouble":
		t := trouble{service: s.name, chance: 0.3, length: time.Duration(rng.Int64N(int64(3 * time.Second)))}
		w.note(s.name, "harm", "trouble %v", t)
		w.faults.add(t)
	case "clock":
		d := time.Duration(rng.Int64N(int64(w.window * 3 / 2)))
		w.note("world", "harm", "nobody does anything for %v", d)
		time.Sleep(d)
	case "outage":
		d := time.Duration(rng.Int64N(int64(20 * time.Second)))
		w.note(s.name, "harm", "outage of %v", d)
		if s.process != nil {
			s.process.kill()
		}
		s.back = time.Now().Add(d)
	case "poison":
		w.send(broker, pick(rng, []string{"tickets", "orders", "payments"}), []byte(pick(rng, []string{"{", "null", `{"specversion":"1.0"}`})), &w.poison)
	case "stranger":
		id := uuid.NewString()
		body, _ := json.Marshal(map[string]any{
			"specversion": "1.0", "id": id, "source": "stranger", "type": "payment.captured", "subject": id, "sequence": "1",
			"time": time.Now().UTC(), "data": map[string]any{"id": id, "orderId": id, "amount": 1, "currency": "usd"},
		})
		w.send(broker, "payments", body, &w.forged)
	}
}

// setFaults gives the brokers faults, each its own.
func (w *world) setFaults(f eventtest.Faults) {
	for _, name := range brokerNames {
		w.brokers[name].SetFaults(f)
		f.Seed++
	}
}

// up lets a broker be reached, unless it was stopped for good.
func (w *world) up(name string) {
	if w.move != nil && w.move.done && name == "stan" {
		return
	}
	w.brokers[name].Up()
	w.note(name, "is up", "")
}

// send publishes a message that no outbox has, and counts it.
func (w *world) send(to event.Broker, stream string, body []byte, count *int) {
	w.note("stranger", "sends", "%s on %s", body, stream)
	s, err := to.Connect(background)
	if err != nil {
		return
	}
	stored := make(chan error, 1)
	s.Publish(background, stream, body, func(err error) { stored <- err })
	<-stored
	*count++ // perhaps: that it is not stored does no harm
	_ = s.Close()
}

// revive starts processes in the place of those that have ended.
func (w *world) revive() {
	for _, name := range names {
		s := w.services[name]
		if s.process != nil && s.process.ended() {
			s.process = nil
			if s.back.Before(time.Now()) {
				s.back = time.Now().Add(time.Duration(w.rng.Int64N(int64(500 * time.Millisecond))))
			}
		}
		if s.process == nil && !time.Now().Before(s.back) {
			s.start()
		}
	}
}
