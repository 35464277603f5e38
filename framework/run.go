package framework

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/turnstile-go/turnstile/framework/internal/logs"
	"github.com/turnstile-go/turnstile/framework/internal/telemetry"
)

const (
	retryMin      = 100 * time.Millisecond // first pause after a Start that failed
	retryMax      = 5 * time.Second
	readyPollMin  = 2 * time.Millisecond // until the service is first ready
	readyPollMax  = 100 * time.Millisecond
	watchEvery    = time.Second     // afterwards, to log what comes and goes
	lastGrace     = time.Second     // for the other parts, once DRAIN_TIMEOUT has passed
	complainAfter = 5 * time.Second // about not being ready
	complainEvery = 30 * time.Second
	flushTimeout  = 5 * time.Second // for telemetry
)

// part is a Part of a service and how far it has come.
type part struct {
	Part
	name string

	started  atomic.Bool
	startErr atomic.Pointer[error] // of the last Start, if that failed

	cancel context.CancelFunc // set by launch
	done   chan struct{}      // set by launch, closed when Run has returned
	err    error              // what Run returned, to be read when done is closed
}

// serve is the command run: it builds the service and runs it until it is told to stop.
func (p *program) serve(ctx context.Context) (err error) {
	began := time.Now()
	s, t, err := p.prepare(ctx)
	if err != nil {
		return err
	}
	l := &lifecycle{program: p, service: s, began: began, health: &health{parts: s.parts}}
	if err := l.listen(t.Metrics()); err != nil {
		return errors.Join(err, flush(ctx, t))
	}
	s.Log.InfoContext(ctx, "service starting", "admin", l.admin.addr, "version", s.Version)
	err = supervise(ctx, p.options.Signals, l.run)
	if errors.As(err, new(killedError)) {
		s.Log.ErrorContext(ctx, "exit without draining", "reason", err)
		return loggedError{err}
	}
	if flushErr := flush(ctx, t); flushErr != nil {
		s.Log.WarnContext(ctx, "telemetry is not delivered", "error", flushErr)
	}
	if err != nil {
		s.Log.ErrorContext(ctx, "service failed", "error", err)
		return loggedError{err}
	}
	s.Log.InfoContext(ctx, "service stopped", "uptime", time.Since(began))
	return nil
}

// migrate is the command migrate.
func (p *program) migrate(ctx context.Context) error {
	s, t, err := p.prepare(ctx)
	if err != nil {
		return err
	}
	err = supervise(ctx, p.options.Signals, func(stop, _ context.Context) error {
		for _, part := range s.parts {
			m, ok := part.Part.(migrator)
			if !ok {
				continue
			}
			began := time.Now()
			done, cancel := context.WithCancel(stop)
			err := guard(func() error { return m.Migrate(stop) })
			cancel()
			if err := errors.Join(err, stopped(guard(func() error { return part.Run(done) }))); err != nil {
				return fmt.Errorf("migrate %s: %w", part.name, err)
			}
			s.Log.InfoContext(stop, "migrated", "part", part.name, "took", time.Since(began))
		}
		return nil
	})
	if err = errors.Join(err, flush(ctx, t)); err != nil {
		s.Log.ErrorContext(ctx, "migration failed", "error", err)
		return loggedError{err}
	}
	return nil
}

// prepare reads the configuration and builds the service: all that happens before anything is opened.
func (p *program) prepare(ctx context.Context) (*Service, *telemetry.Telemetry, error) {
	s, err := p.load()
	if err != nil {
		return nil, nil, err
	}
	s.LogLevel = new(slog.LevelVar)
	s.LogLevel.Set(p.process.LogLevel.Level)
	format, out := p.process.LogFormat, p.options.Stdout
	if text := format == "text" || format == "auto" && logs.IsTerminal(out); text {
		s.Log = logs.New(out, true, s.LogLevel)
	} else {
		s.Log = logs.New(out, false, s.LogLevel).With("service", s.Name, "instance", s.Instance)
	}
	t, err := telemetry.New(ctx, telemetry.Config{
		Service: s.Name, Version: s.Version, Instance: s.Instance,
		TracesURL: p.process.tracesURL(), MetricsURL: p.process.metricsURL(), Log: s.Log,
	})
	if err != nil {
		return nil, nil, err
	}
	s.Tracer, s.Meter = t.Tracer, t.Meter
	if err := p.assemble(s); err != nil {
		return nil, nil, errors.Join(err, flush(ctx, t))
	}
	return s, t, nil
}

// flush sends the last telemetry, in bounded time and however little time ctx has left.
func flush(ctx context.Context, t *telemetry.Telemetry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	return t.Shutdown(ctx)
}

// supervise calls fn with a context that is done when ctx is or the first signal comes, and with one that
// is done when supervise has returned. It returns what fn does or, at a second signal, at once.
func supervise(ctx context.Context, signals <-chan os.Signal, fn func(stop, life context.Context) error) error {
	stop, stopNow := context.WithCancelCause(ctx)
	defer stopNow(nil)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	result := make(chan error, 1)
	go func() { result <- fn(stop, life) }()
	for signaled := false; ; signaled = true {
		select {
		case err := <-result:
			return err
		case sig := <-signals:
			if signaled {
				return killedError{fmt.Errorf("second signal (%v)", sig)}
			}
			stopNow(fmt.Errorf("signal (%v)", sig))
		}
	}
}

// killedError says that a second signal came.
type killedError struct{ error }

// lifecycle is one run of a service.
type lifecycle struct {
	*program
	service *Service
	health  *health
	admin   *admin
	began   time.Time
}

// listen opens the admin server, before anything that may take time.
func (l *lifecycle) listen(metrics http.Handler) (err error) {
	if l.process.ReadyFile != "" { // from an earlier process
		if err := os.Remove(l.process.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove READY_FILE: %w", err)
		}
	}
	describe := func() ([]byte, error) { return l.description(l.service) }
	if l.admin, err = listenAdmin(l.process.AdminAddr, l.health, metrics, describe, l.service.Log); err != nil {
		return fmt.Errorf("admin server (ADMIN_ADDR): %w", err)
	}
	return nil
}

// run starts the parts, waits for a reason to stop, and stops them. Stop is done when the service is to
// drain; life outlasts that.
func (l *lifecycle) run(stop, life context.Context) error {
	defer l.admin.close()
	log := l.service.Log

	var started []*part
	for _, p := range l.service.parts {
		ok, err := p.start(stop, log)
		if err != nil {
			l.health.drain()
			return errors.Join(err, l.stop(life, started, nil))
		}
		if ok {
			started = append(started, p)
		}
		if stop.Err() != nil {
			log.InfoContext(life, "stopped while starting", "reason", context.Cause(stop))
			l.health.drain()
			return l.stop(life, started, nil)
		}
	}

	returned := make(chan *part, len(started))
	for _, p := range started {
		p.launch(life, returned)
	}
	watching, unwatch := context.WithCancel(life)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		l.watch(watching)
	}()
	early := l.serving(stop, returned)
	unwatch()
	err := l.stop(life, started, early)
	select {
	case <-watched:
	case <-time.After(lastGrace): // a Ready that does not return must not keep the service
	}
	return err
}

// serving returns when the parts are to be stopped: after the drain delay or, with the part, when one has
// returned by itself.
func (l *lifecycle) serving(stop context.Context, returned <-chan *part) *part {
	defer l.health.drain()
	select {
	case p := <-returned:
		return p
	case <-stop.Done():
	}
	l.health.drain()
	delay := l.process.DrainDelay
	if !l.health.ready.Load() {
		delay = 0 // nobody has been sent here yet
	}
	l.service.Log.InfoContext(stop, "draining", "reason", context.Cause(stop), "delay", delay)
	select {
	case p := <-returned:
		return p
	case <-time.After(delay):
		return nil
	}
}

// stop stops the parts, the last one first, and returns what any of them failed with. Early is the part
// that returned by itself, if that is why the service stops.
func (l *lifecycle) stop(life context.Context, parts []*part, early *part) error {
	log := l.service.Log
	began := time.Now()
	inTime, cancel := context.WithTimeout(life, l.process.DrainTimeout)
	defer cancel()
	for _, p := range slices.Backward(parts) {
		if p.release(life) {
			select {
			case <-p.done:
				log.DebugContext(life, "part stopped", "part", p.name, "after", time.Since(began))
			case <-inTime.Done(): // the parts before it have to stop too
			}
		}
	}
	last, cancelLast := context.WithCancel(life)
	defer cancelLast()
	if inTime.Err() != nil {
		last, cancelLast = context.WithTimeout(life, lastGrace)
		defer cancelLast()
	}
	var failures []error
	for _, p := range slices.Backward(parts) {
		if p.done == nil {
			continue
		}
		select {
		case <-p.done:
		case <-last.Done():
			failures = append(failures, fmt.Errorf("part %s has not stopped within DRAIN_TIMEOUT (%v)", p.name, l.process.DrainTimeout))
			continue
		}
		switch {
		case p == early && p.err == nil:
			failures = append(failures, fmt.Errorf("part %s returned without having been told to", p.name))
		case p == early:
			failures = append(failures, fmt.Errorf("part %s: %w", p.name, p.err))
		case stopped(p.err) != nil:
			failures = append(failures, fmt.Errorf("part %s: %w", p.name, p.err))
		}
	}
	return errors.Join(failures...)
}

// stopped is the error of a Run that was told to stop. To return ctx.Err() then is no failure; an error that
// wraps it is, for what was cancelled may be the work that was to be finished.
func stopped(err error) error {
	if err == context.Canceled { //nolint:errorlint // unwrapped, as said
		return nil
	}
	return err
}

// start calls Start until it succeeds (true), stop is done (false), or it is of no use.
func (p *part) start(stop context.Context, log *slog.Logger) (bool, error) {
	s, ok := p.Part.(starter)
	if !ok {
		p.started.Store(true)
		return true, nil
	}
	began := time.Now()
	for attempt, pause := 1, retryMin; ; attempt, pause = attempt+1, min(2*pause, retryMax) {
		err := guard(func() error { return s.Start(stop) })
		switch {
		case err == nil:
			p.started.Store(true)
			log.DebugContext(stop, "part started", "part", p.name, "after", time.Since(began))
			return true, nil
		case stop.Err() != nil:
			return false, nil
		case hopeless(err):
			return false, fmt.Errorf("start %s: %w", p.name, err)
		}
		p.startErr.Store(&err)
		wait := pause/2 + rand.N(pause/2)
		log.WarnContext(stop, "part does not start, trying again", "part", p.name, "error", err, "attempt", attempt, "in", wait)
		select {
		case <-stop.Done():
			return false, nil
		case <-time.After(wait):
		}
	}
}

// hopeless reports whether Start would only fail again.
func hopeless(err error) bool {
	var p permanent
	if errors.As(err, &p) && p.Permanent() {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "listen"
}

// launch calls Run in a goroutine that sends the part to returned, if not nil, at its end.
func (p *part) launch(ctx context.Context, returned chan<- *part) {
	ctx, p.cancel = context.WithCancel(ctx)
	p.done = make(chan struct{})
	go func() {
		p.err = errExited
		defer func() {
			close(p.done)
			if returned != nil {
				returned <- p
			}
		}()
		p.err = guard(func() error { return p.Run(ctx) })
	}()
}

var errExited = errors.New("goroutine of Run exited")

// release tells the part to stop. A part that was started but not launched is run all the same, to let go
// of what it holds; false means that there is nothing to wait for.
func (p *part) release(life context.Context) bool {
	if p.done == nil {
		if _, ok := p.Part.(starter); !ok {
			return false
		}
		done, cancel := context.WithCancel(life)
		cancel()
		p.launch(done, nil)
	}
	p.cancel()
	return true
}

// guard returns the panic of fn as an error.
func guard(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicError{fmt.Errorf("panic: %v\n%s", v, debug.Stack())}
		}
	}()
	return fn()
}

type panicError struct{ error }

func (panicError) Permanent() bool { return true }

// watch tells that the service is ready, and afterwards whenever that changes.
func (l *lifecycle) watch(ctx context.Context) {
	log := l.service.Log
	complain := time.Now().Add(complainAfter)
	for pause := readyPollMin; ; pause = min(2*pause, readyPollMax) {
		r := l.health.report()
		if r.Status == statusReady {
			break
		}
		if now := time.Now(); now.After(complain) {
			complain = now.Add(complainEvery)
			log.WarnContext(ctx, "service is not ready yet", "failing", r.failing())
		}
		if !sleep(ctx, pause) {
			return
		}
	}
	l.health.ready.Store(true)
	l.announce(ctx)
	for last := statusReady; sleep(ctx, watchEvery); {
		r := l.health.report()
		if r.Status == last || r.Status == statusDraining {
			continue
		}
		last = r.Status
		if last == statusReady {
			log.InfoContext(ctx, "service is ready again")
		} else {
			log.WarnContext(ctx, "service is "+string(last), "failing", r.failing())
		}
	}
}

// announce tells that the service is ready, and where.
func (l *lifecycle) announce(ctx context.Context) {
	log := l.service.Log
	addresses := map[string]string{}
	attrs := []any{}
	for _, p := range l.service.parts {
		if a, ok := p.Part.(addressed); ok {
			addresses[p.name] = dialable(a.Addr())
			attrs = append(attrs, p.name, addresses[p.name])
		}
	}
	attrs = append(attrs, "admin", l.admin.addr, "after", time.Since(l.began))
	if l.process.ReadyFile != "" {
		if err := writeReadyFile(l.process.ReadyFile, l.service.Name, l.admin.addr, addresses); err != nil {
			log.ErrorContext(ctx, "READY_FILE is not written", "error", err)
		}
	}
	log.InfoContext(ctx, "service ready", attrs...)
	if l.options.Ready != nil {
		addresses["admin"] = l.admin.addr
		l.options.Ready(addresses)
	}
}

// writeReadyFile writes the file in one step: who sees it sees all of it.
func writeReadyFile(path, name, admin string, addresses map[string]string) error {
	text, err := json.Marshal(map[string]any{"name": name, "admin": admin, "addresses": addresses, "pid": os.Getpid()})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// dialable is an address that a client on this machine can use for what listens on all interfaces.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// sleep reports false if ctx was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
