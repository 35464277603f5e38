// Turnstile is the command line of the framework.
//
//	go run ./framework/cmd/turnstile dev     runs every service of the workspace, and rebuilds what you change
//	go run ./framework/cmd/turnstile demo    sells tickets, kills the broker, and proves that no event was lost
//	go run ./framework/cmd/turnstile events  follows events through all services, and mends what holds them up
//	go run ./framework/cmd/turnstile api     says which changes of the services' APIs break their clients
//
// It knows no service by name: go.work says where they are, and each service says itself (`<service> describe`)
// which configuration, operations and events it has.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
)

func main() {
	out := console.New(os.Stdout)
	stop := newStopper()
	err := rootCommand(out, stop).ExecuteContext(stop.context())
	switch {
	case err == nil:
	case errors.Is(err, errInterrupted):
		os.Exit(130)
	case errors.Is(err, errWait):
		os.Exit(3)
	default:
		fmt.Fprintln(os.Stderr, console.New(os.Stderr).Text(console.Bad, "turnstile: ")+err.Error())
		os.Exit(1)
	}
}

func rootCommand(out *console.Console, stop *stopper) *cobra.Command {
	root := &cobra.Command{
		Use:               "turnstile",
		Short:             "Runs the services of a Turnstile workspace",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(devCommand(out, stop), demoCommand(out, stop), brokerCommand(), gatewayCommand(out), eventsCommand(),
		externalMetricsCommand(), manifestsCommand(), apiCommand())
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; '%s --help' lists the flags", err, c.CommandPath())
	})
	return root
}

// errInterrupted says that the command was told to stop before it was done. That needs no words.
var errInterrupted = errors.New("interrupted")

// stopper turns signals into the end of a context; after the second one the process exits at once.
type stopper struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	first func() // called at the first signal
	last  func() // called before the exit at the second
}

func newStopper() *stopper {
	s := &stopper{first: func() {}, last: func() {}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	gone := make(chan struct{})
	go watchParent(gone)
	go func() {
		for n := 1; ; n++ {
			select {
			case <-signals:
			case <-gone:
				gone = nil
			}
			s.mu.Lock()
			first, last := s.first, s.last
			s.mu.Unlock()
			if n > 1 {
				last()
				os.Exit(130)
			}
			first()
			s.cancel()
		}
	}()
	return s
}

func (s *stopper) context() context.Context { return s.ctx }

// on says what to do at the first signal, and what before the exit at the second.
func (s *stopper) on(first, last func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first, s.last = first, last
}

// watchParent closes gone when the process that started this one has ended, if that was `go run`: it does not pass on
// a SIGTERM, and nothing else would tell us.
func watchParent(gone chan<- struct{}) {
	parent := os.Getppid()
	if program, err := os.Executable(); err != nil || !builtByGoRun(program) {
		return
	}
	for os.Getppid() == parent {
		time.Sleep(250 * time.Millisecond)
	}
	close(gone)
}

// group makes c a command that does nothing but have others. One that is written wrong is an error: cobra would show the
// help, with exit code 0.
func group(c *cobra.Command, others ...*cobra.Command) {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("there is no command '%[1]s %[2]s'; 'turnstile %[1]s --help' lists those that there are", c.Name(), args[0])
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(others...)
}
