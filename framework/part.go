package framework

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/turnstile-go/turnstile/framework/internal/logs"
)

const (
	retryMin = 100 * time.Millisecond // first pause after a Start that failed
	retryMax = 5 * time.Second
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
			if attrs := noticeOf(err); attrs != nil { // told while there is who tells it
				log.ErrorContext(stop, "part does not start", append(attrs, "part", p.name, "error", err)...)
			}
			return false, fmt.Errorf("start %s: %w", p.name, err)
		}
		p.startErr.Store(&err)
		wait := pause/2 + rand.N(pause/2)
		log.WarnContext(stop, "part does not start, trying again",
			append(noticeOf(err), "part", p.name, "error", err, "attempt", attempt, "in", wait)...)
		select {
		case <-stop.Done():
			return false, nil
		case <-time.After(wait):
		}
	}
}

// noticeOf is what makes a record about err a notice, if it is one.
func noticeOf(err error) []any {
	var n notable
	if !errors.As(err, &n) {
		return nil
	}
	return []any{logs.Notice(n.Notice())}
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

// hasReturned reports whether the Run of a part that was launched has.
func (p *part) hasReturned() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
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

// stopped is the error of a Run that was told to stop. To return ctx.Err() then is no failure; an error that
// wraps it is, for what was cancelled may be the work that was to be finished.
func stopped(err error) error {
	if err == context.Canceled { //nolint:errorlint // unwrapped, as said
		return nil
	}
	return err
}
