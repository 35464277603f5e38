// Package dev runs all services of a workspace on this machine: it builds them, asks each what it needs, gives it
// that, and puts a gateway in front.
package dev

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/gateway"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/process"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

const (
	hold         = 10 * time.Second // how long the gateway holds requests for a service that is starting
	serviceGrace = 15 * time.Second // from SIGTERM to SIGKILL
	brokerGrace  = 5 * time.Second
	backoffMin   = time.Second
	backoffMax   = 30 * time.Second
	tailShown    = 5 // lines of a crashed process
)

// Options says what a System runs and where.
type Options struct {
	Workspace *workspace.Workspace
	State     string            // folder of databases and the broker's files; a process of turnstile has it for itself
	Bin       string            // folder of the programs that are built
	Listen    string            // host:port of the gateway
	Environ   []string          // the user's environment, as NAME=value: children inherit it
	DotEnv    string            // file with more of it; empty means none
	Hermetic  bool              // what the user has set of the variables that services take does not count
	Set       map[string]string // variables that go before everything else
	Reset     bool              // delete what is in State first
	Debug     bool              // build with what a debugger needs
	Broker    []string          // the program that is any broker, and its first arguments
	Console   *console.Console
	Logs      string // folder for the children's logs, which are then not shown; empty means the console
}

// System is the running whole: services, broker and gateway. Create it with New.
type System struct {
	o       Options
	began   time.Time
	around  surroundings
	gateway *gateway.Gateway

	services map[string]*service
	running  sync.WaitGroup // the services' supervisors
	brokers  []*server      // chosen when Run begins

	mu      sync.Mutex
	changed chan struct{}   // closed at the next change of state of a process
	killed  map[string]bool // by Kill, and not up since
}

// service is one service and what is running of it.
type service struct {
	workspace.Service
	// Used by the goroutine of Run only.
	broken      bool // the last build failed
	sum         string
	description workspace.Description

	// Written under System.mu.
	supervisor *process.Supervisor // nil until it was built and described for the first time
	env        []string
	state      process.State
	up         int       // how often it was ready
	asked      time.Time // when it was last told to start, or crashed
}

// New returns a System that is yet to run.
func New(o Options) *System {
	s := &System{o: o, gateway: gateway.New(hold), services: map[string]*service{}, changed: make(chan struct{}), killed: map[string]bool{}}
	for _, w := range o.Workspace.Services {
		s.services[w.Name] = &service{Service: w}
		s.gateway.Set(w.Name, gateway.Status{})
	}
	return s
}

// URL is the gateway's address. It is known once Run calls its body.
func (s *System) URL() string { return s.around.gateway }

// Run starts everything, calls body when all services that can be built have been started (not yet ready: see Await),
// and stops everything when body returns or ctx is done: the services, then the gateway, then the brokers. In body ctx
// is done when it is time to stop.
func (s *System) Run(ctx context.Context, body func(ctx context.Context) error) (err error) {
	s.began = time.Now()
	if err := os.MkdirAll(s.o.State, 0o755); err != nil {
		return fmt.Errorf("create the folder for state: %w", err)
	}
	listener, err := s.listen()
	if err != nil {
		return err
	}
	defer listener.Close()
	held, err := lock(s.o.State, "http://"+listener.Addr().String())
	if err != nil {
		return err
	}
	defer held.Close()
	s.o.Console.Say(console.Dim, "starting %s", strings.Join(s.o.Workspace.Names(), ", "))
	if s.o.Reset {
		if err := s.reset(); err != nil {
			return err
		}
	}
	dirs := []string{filepath.Join(s.o.State, "data"), filepath.Join(s.o.State, "ready")}
	if s.o.Logs != "" {
		dirs = append(dirs, s.o.Logs)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create the folder for state: %w", err)
		}
	}
	server := s.gateway.Server()
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(listener) }()
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(stop) != nil {
			_ = server.Close() // what is still open after two seconds is cut off
		}
		<-serving
		s.gateway.Close()
	}()

	s.around = surroundings{
		state: s.o.State, gateway: "http://" + listener.Addr().String(), cluster: clusterID, services: s.o.Workspace.Names(), set: s.o.Set,
	}
	if err := s.surround(); err != nil {
		return err
	}
	if err := s.chooseBrokers(); err != nil {
		return err
	}
	s.o.Console.Align(append(s.Brokers(), s.o.Workspace.Names()...)...)

	stopBrokers, err := s.startBrokers(ctx)
	if err != nil {
		return err
	}
	defer stopBrokers()

	services, stopServices := context.WithCancel(ctx)
	defer s.running.Wait()
	defer stopServices()

	if err := s.start(services, s.o.Workspace.Services); err != nil {
		return err
	}
	s.gateway.Open()
	return body(ctx)
}

// surround takes over what the user has set. The environment goes before the file.
func (s *System) surround() error {
	var file []string
	if s.o.DotEnv != "" {
		var err error
		if file, err = DotEnv(s.o.DotEnv); err != nil {
			return err
		}
	}
	s.around.base, s.around.file = s.o.Environ, file
	if !s.o.Hermetic {
		s.around.override = variables(process.Environ(file, s.o.Environ))
	}
	return nil
}

// reset deletes what services and brokers have kept, and says what that is.
func (s *System) reset() error {
	for _, dir := range []string{"data", "nats", "jetstream"} {
		entries, err := os.ReadDir(filepath.Join(s.o.State, dir))
		if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
			continue
		}
		if err == nil {
			err = os.RemoveAll(filepath.Join(s.o.State, dir))
		}
		if err != nil {
			return fmt.Errorf("reset: %w", err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		s.o.Console.Say(console.Warn, "deleted %s: %s", filepath.Join(s.o.State, dir), strings.Join(names, ", "))
	}
	return nil
}

// listen opens the gateway's port. If it is taken by ourselves, working in the same folder, that is said.
func (s *System) listen() (net.Listener, error) {
	listener, err := net.Listen("tcp", s.o.Listen)
	if err == nil {
		return listener, nil
	}
	if inUse(err) {
		held, lockErr := lock(s.o.State, "")
		if lockErr != nil {
			return nil, lockErr
		}
		_ = held.Close() // a lock on a file that nobody else has open
	}
	return nil, listenError(s.o.Listen, err)
}

func listenError(address string, err error) error {
	host, port, splitErr := net.SplitHostPort(address)
	if splitErr != nil {
		return fmt.Errorf("--listen %s: want host:port", address)
	}
	if inUse(err) {
		return fmt.Errorf("port %s of %s is taken by another program: stop that, or choose another port, as in --listen %s", port, host, net.JoinHostPort(host, "0"))
	}
	return fmt.Errorf("listen on %s: %w", address, err)
}

// report says what became of a process that crashed or is up again.
func (s *System) report(name string, state process.State, up int, took time.Duration) {
	var killed bool
	s.notify(func() {
		killed = s.killed[name]
		if state.Phase == process.Up {
			delete(s.killed, name)
		}
	})
	switch {
	case state.Phase == process.Crashed && killed && state.Exit.Signal == syscall.SIGKILL:
		s.o.Console.Tell(name, console.Warn, "killed; starts again in %v", state.Retry)
	case state.Phase == process.Crashed:
		s.o.Console.Tell(name, console.Bad, "%s", s.crash(state))
	case state.Phase == process.Up && up > 1:
		s.o.Console.Tell(name, console.Good, "ready again after %s (pid %d)", seconds(took), state.PID)
	}
}

// crash says how a process ended and what it said last.
func (s *System) crash(state process.State) string {
	if state.Err != nil {
		return fmt.Sprintf("could not be started: %v; the next try is in %v", state.Err, state.Retry)
	}
	text := fmt.Sprintf("crashed: %v; starts again in %v", state.Exit, state.Retry)
	if state.Exit.Signal != 0 {
		return text // what it said last is not the cause
	}
	tail := slices.DeleteFunc(state.Exit.Tail, func(line string) bool { return strings.TrimSpace(line) == "" })
	cause := slices.IndexFunc(tail, func(line string) bool {
		return strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:")
	})
	if cause < 0 {
		cause = max(0, len(tail)-tailShown)
	}
	for _, line := range tail[cause:min(len(tail), cause+tailShown)] {
		text += "\n│ " + s.o.Console.Render([]byte(line))
	}
	return text
}

// start builds services and starts those that are built, or starts them anew. What does not compile is reported and
// left as it is. The error is one that makes going on pointless.
func (s *System) start(ctx context.Context, services []workspace.Service) error {
	s.o.Console.Status("  building")
	failed, err := s.build(ctx, services)
	s.o.Console.Status("")
	if err != nil {
		return err
	}
	var built []*service
	for _, w := range services {
		v := s.services[w.Name]
		v.broken = failed[w.Name]
		if !v.broken {
			built = append(built, v)
		} else if v.supervisor == nil {
			s.gateway.Set(v.Name, gateway.Status{Phase: gateway.Down, Why: "does not compile"})
		}
	}
	_, err = s.apply(ctx, built, s.began)
	return err
}

// build returns the names of the services that do not compile, having shown why.
func (s *System) build(ctx context.Context, services []workspace.Service) (failed map[string]bool, err error) {
	err = s.o.Workspace.Build(ctx, services, s.o.Bin, s.o.Debug)
	problem, ok := errors.AsType[*workspace.BuildError](err)
	if !ok {
		return nil, err
	}
	failed = map[string]bool{}
	for _, name := range problem.Services {
		failed[name] = true
	}
	verb := "does"
	if len(problem.Services) > 1 {
		verb = "do"
	}
	s.o.Console.Say(console.Bad, "%s %s not compile", strings.Join(problem.Services, ", "), verb)
	s.o.Console.Print(s.o.Console.Text(console.Bad, "\n  "+strings.ReplaceAll(problem.Output, "\n", "\n  ")+"\n"))
	return failed, nil
}

// apply has services run the program that was built for them: those whose program or environment is another one than
// before are described and started anew, each when its old process has ended. It returns their names. What led to it
// happened at since.
func (s *System) apply(ctx context.Context, services []*service, since time.Time) (restarted []string, err error) {
	type news struct {
		sum         string
		description workspace.Description
	}
	found := make([]news, len(services))
	group, asking := errgroup.WithContext(ctx)
	for i, v := range services {
		group.Go(func() (err error) {
			program := filepath.Join(s.o.Bin, v.Name)
			if found[i].sum, err = sum(program); err != nil {
				return err
			}
			if found[i].description = v.description; found[i].sum != v.sum {
				found[i].description, err = workspace.Describe(asking, program, s.around.base)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	envs := make([][]string, len(services)) // nil for a service that lacks something
	var missing []string
	first := false
	for i, v := range services {
		env, lacks, unheeded := s.around.environ(v.Name, found[i].description)
		for _, variable := range lacks {
			missing = append(missing, needs(v.Name, variable))
		}
		if len(lacks) == 0 {
			envs[i] = env
		}
		if v.supervisor == nil {
			first = true
			for _, name := range unheeded {
				s.o.Console.Tell(v.Name, console.Warn, "%s is set for all services and not heeded: set %s%s, or put {service} into it", name, prefixOf(v.Name), name)
			}
		}
	}
	if first && missing != nil {
		return restarted, &missingError{missing}
	}
	for i, v := range services {
		if envs[i] == nil {
			continue
		}
		if err := s.gateway.Route(v.Name, found[i].description.Prefixes(), docs(found[i].description)); err != nil {
			return restarted, err
		}
		same := v.sum == found[i].sum && slices.Equal(v.env, envs[i])
		v.sum, v.description = found[i].sum, found[i].description
		if v.supervisor != nil && same {
			continue
		}
		started := v.supervisor != nil
		s.notify(func() {
			v.env, v.asked = envs[i], since
			if !started {
				v.supervisor = s.supervisor(v)
			}
		})
		if started {
			v.supervisor.Restart()
			restarted = append(restarted, v.Name)
		} else {
			s.running.Go(func() { v.supervisor.Run(ctx) })
		}
	}
	if missing != nil {
		return restarted, &missingError{missing}
	}
	return restarted, nil
}

// missingError is configuration that only the user can give.
type missingError struct{ lines []string }

func (e *missingError) Error() string {
	return "variables are required and not set:\n" + strings.Join(e.lines, "\n") +
		"\nset them in the environment or in the file .env beside go.work; NAME counts for all services, <SERVICE>_NAME for one"
}

func needs(service string, v workspace.Variable) string {
	line := "  " + service + " needs " + v.Name
	if v.Doc != "" {
		line += ": " + v.Doc
	}
	if v.Example != "" {
		line += " (such as " + v.Example + ")"
	}
	return line
}

// sum identifies a program by its content.
func sum(program string) (string, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", fmt.Errorf("read the program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read the program: %w", err)
	}
	return string(h.Sum(nil)), nil
}

func (s *System) supervisor(v *service) *process.Supervisor {
	line := s.line(v.Name)
	return &process.Supervisor{
		Command: func() process.Command {
			s.mu.Lock()
			defer s.mu.Unlock()
			return process.Command{
				Path: filepath.Join(s.o.Bin, v.Name), Dir: s.o.Workspace.Root, Env: v.env,
				ReadyFile: s.around.readyFile(v.Name),
				Line:      line,
			}
		},
		Observe: func(state process.State) { s.observe(v, state) },
		Grace:   serviceGrace, Backoff: backoffMin, BackoffMax: backoffMax,
	}
}

// observe follows a service: it tells the gateway, the terminal and those who wait.
func (s *System) observe(v *service, state process.State) {
	var up int
	var took time.Duration
	s.notify(func() {
		v.state = state
		switch state.Phase {
		case process.Up:
			v.up++
			took = time.Since(v.asked)
		case process.Crashed:
			v.asked = time.Now()
		}
		up = v.up
	})
	status := gateway.Status{PID: state.PID}
	switch state.Phase {
	case process.Up:
		status.Phase, status.Addr, status.Admin = gateway.Up, state.Ready.Addresses["http"], state.Ready.Admin
	case process.Crashed:
		status.Phase, status.Why = gateway.Down, "crashed ("+state.Exit.String()+")"
		if state.Err != nil {
			status.Why = "could not be started"
		}
		status.Retry = time.Now().Add(state.Retry)
	case process.Stopped:
		status.Phase, status.Why = gateway.Down, "is stopped"
	}
	s.gateway.Set(v.Name, status)
	s.report(v.Name, state, up, took)
}

// line returns what takes the lines that a child writes.
func (s *System) line(name string) func([]byte) {
	if s.o.Logs == "" {
		return func(line []byte) { s.o.Console.Line(name, line) }
	}
	file := filepath.Join(s.o.Logs, name+".log")
	return func(line []byte) {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			s.o.Console.Line(name, line)
			return
		}
		_, _ = fmt.Fprintf(f, "%s\n", line) // a log that cannot be kept stops nothing
		_ = f.Close()
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// notify applies a change of state and wakes those who wait for one.
func (s *System) notify(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Await waits until every service is ready.
func (s *System) Await(ctx context.Context) error {
	for {
		s.mu.Lock()
		changed, ready := s.changed, true
		for _, v := range s.services {
			ready = ready && v.state.Phase == process.Up
		}
		s.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// AwaitRestart waits until the process that was killed last under this name is ready again.
func (s *System) AwaitRestart(ctx context.Context, name string) error {
	for {
		s.mu.Lock()
		changed, down := s.changed, s.killed[name]
		s.mu.Unlock()
		if !down {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Unready returns the names of the services that are not ready.
func (s *System) Unready() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, name := range s.o.Workspace.Names() {
		if s.services[name].state.Phase != process.Up {
			names = append(names, name)
		}
	}
	return names
}

// Kill ends a service, or a broker, with SIGKILL. It is started again as after any crash.
func (s *System) Kill(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var supervisor *process.Supervisor
	if v := s.services[name]; v != nil {
		supervisor = v.supervisor
	} else if i := slices.Index(s.Brokers(), name); i >= 0 {
		supervisor = s.brokers[i].supervisor
	} else {
		return fmt.Errorf("there is no service %s; there are %s", name, strings.Join(append(s.o.Workspace.Names(), s.Brokers()...), ", "))
	}
	if supervisor == nil || !supervisor.Kill() {
		return fmt.Errorf("%s does not run, so it cannot be killed", name)
	}
	s.killed[name] = true
	return nil
}

// KillAll ends every process with SIGKILL, for an exit without delay.
func (s *System) KillAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.services {
		if v.supervisor != nil {
			v.supervisor.Kill()
		}
	}
	for _, b := range s.brokers {
		if b.supervisor != nil {
			b.supervisor.Kill()
		}
	}
}

// Descriptions returns what the services say of themselves, by name. Call it from Run's body.
func (s *System) Descriptions() map[string]workspace.Description {
	descriptions := map[string]workspace.Description{}
	for name, v := range s.services {
		descriptions[name] = v.description
	}
	return descriptions
}

// Database returns the file of a service's SQLite database.
func (s *System) Database(name string) string {
	return filepath.Join(s.o.State, "data", name+".db")
}

// Overview is the table of what runs where.
func (s *System) Overview() string {
	c := s.o.Console
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := [][]string{{c.Text(console.Dim, "SERVICE"), c.Text(console.Dim, "URL"), c.Text(console.Dim, "DOCS"), c.Text(console.Dim, "ADMIN"), c.Text(console.Dim, "PID")}}
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		v := s.services[name]
		row := []string{c.Name(name), c.Text(console.Bad, "not running"), "", "", ""}
		if v.state.Phase == process.Up {
			row[1] = c.Text(console.Link, s.around.gateway+home(v.description))
			if docs := docs(v.description); docs != "" {
				row[2] = c.Text(console.Link, s.around.gateway+docs)
			}
			if admin := v.state.Ready.Admin; admin != "" {
				row[3] = c.Text(console.Link, "http://"+admin)
			}
			row[4] = fmt.Sprint(v.state.PID)
		}
		rows = append(rows, row)
	}
	for _, b := range s.brokers {
		row := []string{c.Name(b.name), b.url, "", "", ""}
		if b.state.PID != 0 {
			row[4] = fmt.Sprint(b.state.PID)
		}
		rows = append(rows, row)
	}
	return console.Table(append(rows,
		[]string{c.Name("gateway"), c.Text(console.Link, s.around.gateway), "", "", fmt.Sprint(os.Getpid())}))
}
