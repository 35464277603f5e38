package framework

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/turnstile-go/turnstile/framework/internal/config"
)

// Main runs a service and exits the process; it is all there is to a main function:
//
//	func main() { framework.Main("orders", service.New) }
//
// The program it makes is called as `orders [run|migrate|describe|check|version|help]`; run is the default. The
// struct C is filled from environment variables as [Run] says, and build adds the parts.
//
// SIGTERM or SIGINT makes the service drain: see the package documentation. The exit code is 0 after a drain
// that succeeded, 2 if arguments or configuration are wrong, and 1 otherwise, so also after a second signal,
// which ends the process at once.
func Main[C any](name string, build func(s *Service, c C) error) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	err := Run(context.Background(), name, build, Options{
		Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals,
	})
	if err == nil {
		os.Exit(0)
	}
	if errors.As(err, new(usageError)) {
		os.Exit(2)
	}
	os.Exit(1)
}

// Options is what surrounds a run: what [Main] takes from the process, and a test makes up. The zero value
// runs the service without arguments, with an empty environment, silently, until its context is done.
type Options struct {
	// Args are the arguments after the program's name. Empty means run.
	Args []string
	// Environ is the environment as NAME=value. Only the OpenTelemetry SDK's own settings (OTEL_*, save the
	// endpoints) are read from the process.
	Environ []string
	// Stdout takes the log and what describe, version and help print, Stderr the error that Run returns if
	// the log does not have it: of wrong arguments or configuration, and of a service that cannot be built.
	// Nil discards.
	Stdout, Stderr io.Writer
	// Signals delivers the signals to stop: the first makes the service drain, the second makes Run return
	// at once, with parts still running. Nil means none.
	Signals <-chan os.Signal
	// Listen, if set, opens the admin server's listener, for services without a network of the machine's. Nil
	// listens on TCP.
	Listen func(ctx context.Context, network, addr string) (net.Listener, error)
	// Ready, if set, is called once, when the service is first ready, with the address of every part that
	// has one and that of the admin server, "admin".
	Ready func(addresses map[string]string)
}

// Run is [Main] without the process around it: it returns when the service has stopped, nil if that is
// because ctx was done or a signal came, and everything went well on the way.
//
// C is a struct with the tags of github.com/caarlos0/env (env, envDefault, envPrefix), a tag doc that says
// what a variable is for, and for a required one a tag example, which stands in for it in describe. All
// variables that are missing or wrong are reported together, by name, before build is called.
//
// Build makes the parts and adds them, in the order in which they need each other. It does no I/O: describe
// calls it too, with every variable at its default or example, and whatever else at its zero value.
func Run[C any](ctx context.Context, name string, build func(s *Service, c C) error, o Options) error {
	var c struct {
		Process process
		Service C
	}
	return call(ctx, name, o, &c, &c.Process, func(s *Service) error { return build(s, c.Service) })
}

// call is Run without type parameters. What Run itself names is compiled again into every service, and program
// leads to all of the telemetry.
func call(ctx context.Context, name string, o Options, configuration any, process *process, build func(*Service) error) error {
	p := &program{name: name, options: o, configuration: configuration, process: process, build: build}
	err := p.run(ctx)
	if err != nil && o.Stderr != nil && !errors.As(err, new(loggedError)) {
		fmt.Fprintf(o.Stderr, "%s: %v\n", name, err)
	}
	return err
}

// program is one call of a service's binary.
type program struct {
	name          string
	options       Options
	configuration any // pointer to the struct of everything that comes from the environment
	process       *process
	build         func(*Service) error
}

func (p *program) run(ctx context.Context) error {
	if p.options.Stdout == nil {
		p.options.Stdout = io.Discard
	}
	if p.options.Listen == nil {
		p.options.Listen = new(net.ListenConfig).Listen
	}
	command := "run"
	switch len(p.options.Args) {
	case 0:
	case 1:
		command = p.options.Args[0]
	default:
		return usageError{fmt.Errorf("too many arguments: %q\n%s", p.options.Args, p.usage())}
	}
	switch command {
	case "run":
		return p.serve(ctx)
	case "migrate":
		return p.migrate(ctx)
	case "describe":
		return p.describe()
	case "check":
		return p.check()
	case "version":
		_, err := fmt.Fprintf(p.options.Stdout, "%s %s %s\n", p.name, version(), runtime.Version())
		return err
	case "help", "-h", "-help", "--help":
		_, err := fmt.Fprintln(p.options.Stdout, p.usage())
		return err
	default:
		return usageError{fmt.Errorf("unknown command %q\n%s", command, p.usage())}
	}
}

func (p *program) usage() string {
	return strings.ReplaceAll(`usage: NAME [command]
  run        run the service until SIGTERM or SIGINT (the default)
  migrate    prepare the service's database, then exit
  describe   print as JSON the configuration the service takes, its events, operations and probes
  check      say what is wrong with the environment that it is called with, and open nothing
  version    print the version
  help       print this
Configuration comes from environment variables: see NAME describe.`, "NAME", p.name)
}

// load reads the configuration and builds the service.
func (p *program) load() (*Service, error) {
	environ := make(map[string]string, len(p.options.Environ))
	for _, e := range p.options.Environ {
		name, value, _ := strings.Cut(e, "=")
		environ[name] = value
	}
	if err := config.Load(p.configuration, environ); err != nil {
		return nil, usageError{fmt.Errorf("%w\n`%s describe` lists all variables", err, p.name)}
	}
	variables, err := config.Variables(p.configuration)
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", p.name, err)
	}
	for _, v := range variables {
		environ[v.Name] = cmp.Or(environ[v.Name], v.Default)
	}
	s := &Service{Name: p.name, Version: version(), Instance: p.process.instance(), Pod: p.process.Pod}
	s.settings.started = environ
	return s, nil
}

func (p *program) assemble(s *Service) error {
	if err := p.build(s); err != nil {
		return fmt.Errorf("build %s: %w", p.name, err)
	}
	s.built = true
	return nil
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	var revision, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if revision == "" {
		return "devel"
	}
	return revision + dirty
}

// usageError is a mistake of whoever called the program: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// loggedError is an error that the service's log has already told.
type loggedError struct{ error }

func (e loggedError) Unwrap() error { return e.error }
