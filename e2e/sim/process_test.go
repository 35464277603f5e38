package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	auth "github.com/turnstile-go/turnstile/services/auth/service"
	orders "github.com/turnstile-go/turnstile/services/orders/service"
	payments "github.com/turnstile-go/turnstile/services/payments/service"
	tickets "github.com/turnstile-go/turnstile/services/tickets/service"
)

// names are the four services, in the order in which they are started.
var names = []string{"auth", "tickets", "orders", "payments"}

// service is one of the four, with what outlives its processes.
type service struct {
	world   *world
	name    string
	disk    *disk
	process *process // running; nil while it is down
	uses    []string // brokers, by name: of processes started from here on
	boots   int
	back    time.Time // when it is to be started again
}

// process is one run of a service, from its start to its end or death. Once it is dead, nothing that it still does
// reaches its disk, the broker or the network.
type process struct {
	service *service
	name    string // orders-2
	uses    []string
	stop    context.CancelFunc
	signals chan os.Signal
	ready   chan struct{}
	done    chan struct{} // closed when Run has returned

	mu        sync.Mutex
	rng       *rand.Rand // decides on its steps
	dead      bool
	left      int // steps before it dies; negative for no limit
	listeners []*listener
	sessions  []event.Session
}

var (
	errDead     = errors.New("sim: the process is dead")
	errInjected = errors.New("sim: the disk fails")
)

// start starts a process of the service.
func (s *service) start() {
	s.boots++
	p := &process{
		service: s, name: fmt.Sprintf("%s-%d", s.name, s.boots), uses: s.uses, signals: make(chan os.Signal, 2),
		ready: make(chan struct{}), done: make(chan struct{}), left: -1,
	}
	p.rng = s.world.random(p.name)
	s.process = p
	s.world.note(p.name, "starts", "on %v", p.uses)
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	s.world.running.Go(func() {
		defer close(p.done)
		err := p.run(ctx)
		s.world.note(p.name, "ends", "%v", err)
		if err != nil && !p.isDead() {
			s.world.problem("%s: %v", p.name, err)
		}
	})
}

func (p *process) run(ctx context.Context) error {
	o := framework.Options{
		Environ: p.service.world.environ(p.service.name), Stdout: io.Discard, Signals: p.signals, Listen: p.listen,
		Ready: func(map[string]string) { close(p.ready) },
	}
	if p.service.world.verbose {
		o.Stdout = noting{p}
	}
	var brokers []event.Broker
	for _, name := range p.uses {
		brokers = append(brokers, link{eventtest.Named(name, p.service.world.brokers[name]), p})
	}
	switch p.service.name {
	case "auth":
		return framework.Run(ctx, "auth", func(s *framework.Service, c auth.Config) error {
			p.equip(&c.Database, &c.HTTP, &c.Session)
			return auth.Assemble(s, c, brokers...)
		}, o)
	case "tickets":
		return framework.Run(ctx, "tickets", func(s *framework.Service, c tickets.Config) error {
			p.equip(&c.Database, &c.HTTP, &c.Session)
			return tickets.Assemble(s, c, brokers...)
		}, o)
	case "orders":
		return framework.Run(ctx, "orders", func(s *framework.Service, c orders.Config) error {
			p.equip(&c.Database, &c.HTTP, &c.Session)
			return orders.Assemble(s, c, brokers...)
		}, o)
	default:
		return framework.Run(ctx, "payments", func(s *framework.Service, c payments.Config) error {
			p.equip(&c.Database, &c.HTTP, &c.Session)
			return payments.Assemble(s, c, brokers...)
		}, o)
	}
}

// noting notes what a process logs.
type noting struct{ process *process }

func (n noting) Write(line []byte) (int, error) {
	n.process.service.world.note(n.process.name, "logs", "%s", bytes.TrimSpace(bytes.Clone(line)))
	return len(line), nil
}

// equip gives the process the surroundings that are simulated.
func (p *process) equip(db *database.Config, http *web.Config, sessions *session.Config) {
	db.Wrap = p.service.disk.mounted(p)
	http.Listen = p.listen
	sessions.Transport = transport{p}
}

// listen implements framework's and web's Listen. The host is that of the address.
func (p *process) listen(_ context.Context, _, addr string) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return nil, errDead
	}
	host, _, _ := strings.Cut(addr, ":")
	l := p.service.world.network.listen(host)
	p.listeners = append(p.listeners, l)
	return l, nil
}

// transport is the process's way to other services.
type transport struct{ process *process }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.process.isDead() {
		return nil, errDead
	}
	return t.process.service.world.network.RoundTrip(r)
}

func (p *process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// step is what the process does to its disk: a statement, a commit, or what comes after that. It takes its time, it may
// fail, and it may be the process's last.
func (p *process) step(ctx context.Context, what string) error {
	if p == nil {
		return nil // an observer
	}
	w := p.service.world
	p.mu.Lock()
	wait := w.faults.wait(p.rng)
	p.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	dies := !p.dead && p.left == 0
	if p.left >= 0 {
		p.left--
	}
	fails := !p.dead && w.faults.fails(p.rng, p.service.name, what)
	dead := p.dead
	p.mu.Unlock()
	switch {
	case dead:
		return errDead
	case dies:
		w.note(p.name, "dies", "at %s", brief(what))
		p.kill()
		return errDead
	case fails:
		w.note(p.name, "fails", "at %s", brief(what))
		return errInjected
	}
	return nil
}

// brief names a statement.
func brief(statement string) string {
	words := strings.Fields(statement)
	return strings.Join(words[:min(len(words), 4)], " ")
}

// kill ends the process as SIGKILL does.
func (p *process) kill() {
	p.mu.Lock()
	listeners, sessions := p.listeners, p.sessions
	p.dead, p.listeners, p.sessions = true, nil, nil
	p.mu.Unlock()
	p.service.disk.drop(p)
	for _, l := range listeners {
		l.sever()
	}
	for _, s := range sessions {
		_ = s.Close()
	}
	// Its goroutines find everything broken. Two signals are what has Run not wait for them.
	for range 2 {
		select {
		case p.signals <- syscall.SIGTERM:
		default:
		}
	}
	p.stop()
}

// killAfter has the process die at the n-th step from now.
func (p *process) killAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = n
}

// ended reports whether the process is dead or has stopped.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return p.isDead()
	}
}

// link is a broker as a process sees it.
type link struct {
	event.Broker
	process *process
}

func (l link) Connect(ctx context.Context) (event.Session, error) {
	if l.process.isDead() {
		return nil, errDead
	}
	s, err := l.Broker.Connect(ctx)
	if err != nil {
		return nil, err
	}
	l.process.mu.Lock()
	defer l.process.mu.Unlock()
	l.process.sessions = append(l.process.sessions, s)
	return &observed{s, l.process, l.Name()}, nil
}

// observed is a session whose traffic is noted.
type observed struct {
	event.Session
	process *process
	broker  string
}

func (o *observed) Publish(ctx context.Context, stream string, body []byte, acked func(error)) {
	w := o.process.service.world
	what := message(body)
	w.note(o.process.name, "sends", "%v on %s", what, o.broker)
	o.Session.Publish(ctx, stream, body, func(err error) {
		if err != nil {
			w.note(o.process.name, "is told", "%v: %v", what, err)
		}
		acked(err)
	})
}

func (o *observed) Subscribe(ctx context.Context, s event.Subscription, deliver func(event.Delivery)) (func() error, error) {
	return o.Session.Subscribe(ctx, s, func(d event.Delivery) {
		w := o.process.service.world
		w.note(o.process.name, "receives", "%v from %s, again: %t", message(d.Body), o.broker, d.Redelivered)
		deliver(d)
	})
}
