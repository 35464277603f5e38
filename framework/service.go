package framework

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/turnstile-go/turnstile/framework/internal/logs"
)

// Service is one service in the making: what a build function is handed, takes its logger and telemetry
// from, and adds its parts to.
type Service struct {
	// Name is what Main was given, such as "orders".
	Name string
	// Version is the module version or the commit the binary was built from, or "devel".
	Version string
	// Instance tells this process from its siblings: POD_NAME, or the host's name and the process id.
	Instance string
	// Pod is the pod that this process is in.
	Pod Pod

	// Log writes JSON, or text in a terminal (LOG_FORMAT), with the trace of the context it is called with.
	Log *slog.Logger
	// LogLevel is the level of Log, first that of LOG_LEVEL; Set it to change it while running.
	LogLevel *slog.LevelVar

	// Tracer and Meter are the service's own; nothing global is set. Spans leave the process only if an
	// OTLP endpoint is configured, but their ids are valid in any case; what is measured is on /metrics.
	Tracer trace.TracerProvider
	Meter  metric.MeterProvider

	parts    []*part
	built    bool
	settings settings
	notices  *logs.Notices
}

// Part is something of a service that runs: a server, a pool, a set of workers.
//
// Run blocks. When ctx is done it finishes what it has begun, lets go of what it holds, and returns nil; to
// return earlier, with an error or without, is to fail, and stops the service. Time to finish is limited by
// DRAIN_TIMEOUT, which all parts share.
//
// A Part may have any of these methods too. Ready, Addr and Describe are called from any goroutine, also
// while Run runs.
//
//	Start(ctx context.Context) error
//
// Start makes the part usable by the parts added after it. Parts are started in the order in which they
// were added, each when the one before has been, and no Run is called before the last is. An error is
// logged and Start is called again, with growing pauses, until it succeeds or the service is told to stop,
// when ctx is done. Only an error that has, or wraps one that has, a method Permanent() bool that returns
// true stops the service, as does the failure to listen on an address. Run is always called after a Start
// that succeeded, with a ctx that is already done if the service stops before it was up: Run is the place to
// release what Start opened. An error that has, or wraps one that has, a method Notice() string is a [Notice] of
// that reason.
//
//	Close() error
//
// Close is called, instead of Run, on a part that the service could not start before it had to stop. It
// releases what the part has held since it was made.
//
//	Ready() map[string]error
//
// Ready says for each of the part's dependencies, by name, whether it is there (nil). It answers from what
// the part knows already and does not wait. It is first called after Start. An error that has, or wraps one
// that has, a method Degraded() bool that returns true is one that the service can work with: once it has
// been ready, such an error is shown but leaves it ready.
//
//	Addr() string
//
// Addr is the address on which the part listens once it has started.
//
//	Migrate(ctx context.Context) error
//
// Migrate prepares what the part keeps, such as the tables of a database, when the service is called with
// the argument migrate: without Start, and with a Run whose ctx is already done after it.
//
//	Describe() map[string]any
//
// Describe adds to what `<service> describe` prints, by top-level key. Under one key the lists of several
// parts are joined, and so are their objects. It does no I/O.
//
//	Debug() map[string]http.Handler
//
// Debug has the pages of the part on the admin port, by path below /debug/, for operators: the public does not
// reach them. It is called once; the handlers are called at any time, also before Start.
//
//	Adjust() map[string]func(value string) error
//
// Adjust has the variables of the part that may change while it runs: for each the function that has a value,
// written as in the environment, take effect, and refuses one that is of no use. Empty is a variable that is not set
// and has no default. It is called at any time, also before Start, and always has the same variables; the functions
// are called one at a time: see [Service.Adjust].
//
//	Drain(ctx context.Context) error
//
// Drain is called when the service is to stop and says on /readyz that it is no longer ready. It sees to it that
// no new work is sent to the part, and returns when that is so; the service serves on until all have returned, and
// for DRAIN_DELAY after that. Every Drain has to set itself a limit. An error is logged. Ctx is done when the service
// ends before.
//
//	LastRequest() time.Time
//
// LastRequest is when the part was last asked for something after its Drain was called, the zero time if it was not.
// As long as requests come, load balancers have not noticed that the service goes, and it stays: until none has come
// for DRAIN_DELAY, or DRAIN_DELAY_MAX is over.
type Part interface {
	Run(ctx context.Context) error
}

// Add adds a part: it is started after those added before it and stopped before them. The name is what logs,
// probes and errors call it. Add panics if the name is empty, "admin" or taken, if p is nil, and after the
// build function has returned.
func (s *Service) Add(name string, p Part) {
	switch {
	case s.built:
		panic(fmt.Sprintf("framework: part %q added to service %q after it was built", name, s.Name))
	case p == nil:
		panic(fmt.Sprintf("framework: part %q of service %q is nil", name, s.Name))
	case name == "" || name == "admin":
		panic(fmt.Sprintf("framework: service %q has a part (%T) named %q: give it another name", s.Name, p, name))
	}
	for _, other := range s.parts {
		if other.name == name {
			panic(fmt.Sprintf("framework: service %q has two parts named %q (%T and %T)", s.Name, name, other.Part, p))
		}
	}
	s.parts = append(s.parts, &part{name: name, Part: p})
}

// The methods a Part may have, as documented there.
type (
	starter interface {
		Start(ctx context.Context) error
	}
	closer    interface{ Close() error }
	readier   interface{ Ready() map[string]error }
	addressed interface{ Addr() string }
	migrator  interface {
		Migrate(ctx context.Context) error
	}
	describer interface{ Describe() map[string]any }
	debugger  interface {
		Debug() map[string]http.Handler
	}
	adjustable interface {
		Adjust() map[string]func(value string) error
	}
	drainer interface {
		Drain(ctx context.Context) error
	}
	visited interface{ LastRequest() time.Time }

	permanent interface{ Permanent() bool }
	degraded  interface{ Degraded() bool }
	notable   interface{ Notice() string }
)
