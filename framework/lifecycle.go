package framework

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/internal/adminport"
)

const lastGrace = time.Second / 2 // for the other parts, once DRAIN_TIMEOUT has passed

// lifecycle is one run of a service.
type lifecycle struct {
	*program
	service   *Service
	health    *health
	admin     *adminport.Server
	adminAddr string // where it can be reached from this machine
	began     time.Time
}

// listen opens the admin server, before anything that may take time.
func (l *lifecycle) listen(ctx context.Context, metrics http.Handler) error {
	if l.process.ReadyFile != "" { // from an earlier process
		if err := os.Remove(l.process.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove READY_FILE: %w", err)
		}
	}
	describe := func() ([]byte, error) { return l.description(l.service) }
	listener, err := l.options.Listen(ctx, "tcp", l.process.AdminAddr)
	if err != nil {
		return fmt.Errorf("admin server (ADMIN_ADDR): %w", err)
	}
	l.adminAddr = dialable(listener.Addr().String())
	l.admin = adminport.Serve(listener, adminPages(l.health, metrics, describe), l.service.Log.With("part", "admin"))
	return nil
}

// run starts the parts, waits for a reason to stop, and stops them. Stop is done when the service is to
// drain; life outlasts that.
func (l *lifecycle) run(stop, life context.Context) error {
	defer l.admin.Close()
	defer l.abandon(life)
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
	early := l.serving(stop, life, returned)
	unwatch()
	err := l.stop(life, started, early)
	select {
	case <-watched:
	case <-time.After(lastGrace): // a Ready that does not return must not keep the service
	}
	return err
}

// abandon closes the parts that were not started.
func (l *lifecycle) abandon(life context.Context) {
	for _, p := range l.service.parts {
		c, ok := p.Part.(closer)
		if !ok || p.started.Load() {
			continue
		}
		if err := guard(c.Close); err != nil {
			l.service.Log.WarnContext(life, "part that was not started does not close", "part", p.name, "error", err)
		}
	}
}

// serving returns when the parts are to be stopped: when they have drained and the drain delay is over or, with the
// part, when one has returned by itself.
func (l *lifecycle) serving(stop, life context.Context, returned <-chan *part) *part {
	defer l.health.drain()
	select {
	case p := <-returned:
		return p
	case <-stop.Done():
	}
	l.health.drain()
	l.service.Log.InfoContext(life, "draining", "reason", context.Cause(stop), "delay", l.process.DrainDelay, "at_most", l.process.DrainDelayMax)
	if !l.health.ready.Load() {
		return nil // nobody has been sent here yet
	}
	ctx, cancel := context.WithCancel(life)
	defer cancel()
	select {
	case p := <-returned:
		return p
	case <-l.drain(ctx):
	}
	limit := time.Now().Add(max(l.process.DrainDelay, l.process.DrainDelayMax))
	for wait := l.process.DrainDelay; wait > 0; wait = min(time.Until(l.lastRequest().Add(l.process.DrainDelay)), time.Until(limit)) {
		select {
		case p := <-returned:
			return p
		case <-time.After(wait):
		}
	}
	return nil
}

// lastRequest is when somebody has last come to any part: a load balancer may be slow to notice that we are about to go.
func (l *lifecycle) lastRequest() (last time.Time) {
	for _, p := range l.service.parts {
		if v, ok := p.Part.(visited); ok {
			if at := v.LastRequest(); at.After(last) {
				last = at
			}
		}
	}
	return last
}

// drain has all parts see to it that no new work comes. The channel is closed when it does not come any more.
func (l *lifecycle) drain(ctx context.Context) <-chan struct{} {
	var drains sync.WaitGroup
	for _, p := range l.service.parts {
		if d, ok := p.Part.(drainer); ok {
			drains.Go(func() {
				if err := guard(func() error { return d.Drain(ctx) }); err != nil && ctx.Err() == nil {
					l.service.Log.WarnContext(ctx, "part does not drain", "part", p.name, "error", err)
				}
			})
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		drains.Wait()
	}()
	return done
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
		}
		if !p.hasReturned() { // both may have been
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
