package framework

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/turnstile-go/turnstile/framework/internal/logs"
	"github.com/turnstile-go/turnstile/framework/internal/memory"
	"github.com/turnstile-go/turnstile/framework/internal/telemetry"
)

const flushTimeout = 5 * time.Second // for telemetry

// serve is the command run: it builds the service and runs it until it is told to stop.
func (p *program) serve(ctx context.Context) (err error) {
	began := time.Now()
	s, t, err := p.prepare(ctx)
	if err != nil {
		return err
	}
	l := &lifecycle{program: p, service: s, began: began, health: &health{parts: s.parts}}
	if err := l.listen(ctx, t.Metrics()); err != nil {
		l.abandon(ctx)
		return errors.Join(err, flush(ctx, t))
	}
	s.Log.InfoContext(ctx, "service starting", "admin", l.adminAddr, "version", s.Version)
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
	s.notices = new(logs.Notices)
	if text := format == "text" || format == "auto" && logs.IsTerminal(out); text {
		s.Log = logs.New(out, true, s.LogLevel, s.notices)
	} else {
		s.Log = logs.New(out, false, s.LogLevel, s.notices).With("service", s.Name, "instance", s.Instance)
	}
	t, err := telemetry.New(ctx, telemetry.Config{
		Service: s.Name, Version: s.Version, Instance: s.Instance,
		Attributes: map[string]string{
			"k8s.pod.name": s.Pod.Name, "k8s.pod.uid": s.Pod.UID, "k8s.namespace.name": s.Pod.Namespace, "k8s.node.name": s.Pod.Node,
		},
		TracesURL: p.process.tracesURL(), MetricsURL: p.process.metricsURL(), Log: s.Log,
	})
	if err != nil {
		return nil, nil, err
	}
	s.Tracer, s.Meter = t.Tracer, t.Meter
	memory.Fit(ctx, s.Log) // before parts are made, which may ask how much there is
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
