// Package fleet runs the whole application as processes: message brokers, databases, and replicas of the four services,
// with a link that can be disturbed between each service and each broker, and between each service and its database.
package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/link"
	"github.com/turnstile-go/turnstile/e2e/internal/process"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
)

// Names are the services.
var Names = []string{"auth", "orders", "payments", "tickets"}

// The brokers.
const (
	Stan      = "stan"
	JetStream = "jetstream"
)

// Options say what to run.
type Options struct {
	Dir      string   // for programs, databases, messages and logs; it must be there, and its path short
	Brokers  []string // Stan, JetStream, or both
	Use      string   // what BROKER says to the services at first; empty means all brokers
	Postgres bool     // instead of a SQLite file for each service
	Replicas int      // processes of each service; with SQLite one, since a file is one process's

	// Env is what configures the services, beside the addresses of what they need: NAME=value.
	Env []string
	// Say is told what happens, for people; calls may overlap.
	Say func(format string, args ...any)
}

// Fleet is what runs. Stop it at the end.
type Fleet struct {
	Brokers  []*Broker
	Services []*Service           // all replicas of all services
	Postgres *databasetest.Server // nil with SQLite

	options   Options
	gateway   *gateway
	port      int // that was tried last
	databases map[string]*database.DB
	cancel    context.CancelFunc
	keeping   sync.WaitGroup
}

// Broker is a message broker.
type Broker struct {
	*process.Program
	store string // folder
}

// Wipe kills the broker and deletes all that it has kept.
func (b *Broker) Wipe() error {
	b.Kill()
	return os.RemoveAll(b.store)
}

// Service is one replica of a service.
type Service struct {
	*process.Program
	Service  string       // its service's name
	Addr     string       // of its HTTP API
	Brokers  []*link.Link // to each broker
	Database *link.Link   // nil with SQLite

	leaving  atomic.Bool  // gets no more requests
	requests atomic.Int64 // under way
}

// Links returns all of its links.
func (s *Service) Links() []*link.Link {
	if s.Database == nil {
		return s.Brokers
	}
	return append(slices.Clone(s.Brokers), s.Database)
}

// Start builds the programs and starts everything. It returns when all are ready, or an error with nothing left running.
func Start(ctx context.Context, o Options) (*Fleet, error) {
	keep, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &Fleet{
		options: o, databases: map[string]*database.DB{}, cancel: cancel,
		port: firstPort + rand.IntN(lastPort-firstPort), // fleets that start at once begin apart
	}
	err := f.start(ctx)
	if err == nil {
		err = f.AwaitReady(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, f.Stop())
	}
	f.keeping.Go(func() { f.keep(keep) })
	return f, nil
}

func (f *Fleet) start(ctx context.Context) error {
	o := f.options
	for _, dir := range []string{f.dir("bin"), f.dir("data"), f.dir("logs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	o.Say("building the programs")
	var err error
	if err = build(ctx, f.dir("bin")); err != nil {
		return err
	}
	if o.Postgres {
		o.Say("starting PostgreSQL")
		if err := os.Chmod(o.Dir, 0o755); err != nil { // another user may have to run it
			return err
		}
		if f.Postgres, err = databasetest.NewServer(f.dir("pg")); err != nil {
			return err
		}
	}
	if f.gateway, err = startGateway(); err != nil {
		return err
	}
	servers := map[string]string{} // the brokers' addresses, by name
	for _, name := range o.Brokers {
		addr, err := f.freeAddr()
		if err != nil {
			return err
		}
		servers[name] = addr
		if err := f.addBroker(name, addr); err != nil {
			return err
		}
	}
	for _, name := range Names {
		if f.Postgres != nil {
			if err := f.Postgres.CreateDatabase(ctx, name); err != nil {
				return err
			}
		}
		db, err := database.New(database.Config{URL: f.databaseURL(name), MaxConns: 2})
		if err != nil {
			return err
		}
		f.databases[name] = db
	}
	o.Say("starting %s; replicas of each service: %d", strings.Join(o.Brokers, ", "), o.Replicas)
	for replica := range o.Replicas {
		for _, name := range Names {
			if err := f.addService(name, replica+1, servers); err != nil {
				return err
			}
		}
	}
	for _, s := range f.Services {
		if err := s.Start(); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) addBroker(name, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	b := &Broker{store: f.dir("data", name)}
	args := []string{"broker", "--dir", b.store, "--port", port}
	if name != Stan {
		args = append(args, "--kind", name)
	}
	b.Program = &process.Program{Name: name, Path: f.dir("bin", "turnstile"), Args: args, Env: environ(), Dir: f.dir("logs")}
	f.Brokers = append(f.Brokers, b)
	return b.Start()
}

func (f *Fleet) addService(name string, replica int, servers map[string]string) error {
	addr, err := f.freeAddr()
	if err != nil {
		return err
	}
	id := fmt.Sprintf("%s-%d", name, replica)
	// Everybody comes from one address here, and tries again at once.
	unlimited := []string{"RATE_LIMIT_CLIENT=0", "RATE_LIMIT_ADDRESS=0"}
	program := &process.Program{
		Name: id, Path: f.dir("bin", name), Dir: f.dir("logs"), Env: slices.Concat(environ(), unlimited, f.options.Env),
	}
	s := &Service{Program: program, Service: name, Addr: addr}
	f.Services = append(f.Services, s)
	f.gateway.add(s)
	env := map[string]string{
		"BROKER": cmp.Or(f.options.Use, strings.Join(f.options.Brokers, "+")), "CLIENT_ID": id, "POD_NAME": id,
		"HTTP_ADDR": addr, "ADMIN_ADDR": "127.0.0.1:0", "SESSION_JWKS_URL": f.URL() + "/.well-known/jwks.json",
		"DATABASE_URL": f.databaseURL(name), "LOG_FORMAT": "json",
	}
	for _, broker := range f.options.Brokers {
		l, err := f.newLink(id+" and "+broker, servers[broker])
		if err != nil {
			return err
		}
		s.Brokers = append(s.Brokers, l)
		env[map[string]string{Stan: "NATS_URL", JetStream: "JETSTREAM_URL"}[broker]] = "nats://" + l.Addr
	}
	if f.Postgres != nil {
		if s.Database, err = f.newLink(id+" and its database", f.dir("pg", ".s.PGSQL.5432")); err != nil {
			return err
		}
		env["DATABASE_URL"] = "postgres://postgres@" + s.Database.Addr + "/" + name + "?sslmode=disable"
	}
	for name, value := range env {
		s.Env = append(s.Env, name+"="+value)
	}
	return nil
}

func (f *Fleet) newLink(name, server string) (*link.Link, error) {
	addr, err := f.freeAddr()
	if err != nil {
		return nil, err
	}
	return link.New(name, addr, server)
}

// dir returns the path of something in the folder of the run.
func (f *Fleet) dir(elements ...string) string {
	return filepath.Join(append([]string{f.options.Dir}, elements...)...)
}

// databaseURL is how we reach a service's database, whatever becomes of its links.
func (f *Fleet) databaseURL(service string) string {
	if f.Postgres != nil {
		return f.Postgres.URL(service)
	}
	return "sqlite:" + f.dir("data", service+".db")
}

// Databases are those of the services, by name. They stay open until Stop.
func (f *Fleet) Databases() map[string]*database.DB { return f.databases }

// Events returns the command `turnstile events`, given the ledgers of all services.
func (f *Fleet) Events(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"events"}, args...)
	for _, name := range Names {
		args = append(args, "--database", name+"="+f.databaseURL(name))
	}
	cmd := exec.CommandContext(ctx, f.dir("bin", "turnstile"), args...)
	cmd.Env = environ()
	return cmd
}

// URL is that of the gateway, which passes requests on to the services.
func (f *Fleet) URL() string { return "http://" + f.gateway.address }

// programs are all that run.
func (f *Fleet) programs() (all []*process.Program) {
	for _, b := range f.Brokers {
		all = append(all, b.Program)
	}
	for _, s := range f.Services {
		all = append(all, s.Program)
	}
	return all
}

const poll = 100 * time.Millisecond

// keep starts again what has ended by itself, until ctx is done.
func (f *Fleet) keep(ctx context.Context) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, p := range f.programs() {
			how := p.Ended()
			if how == "" {
				continue
			}
			f.options.Say("%s has ended by itself (%s), starting it again; see %s.log", p.Name, how, p.Name)
			if err := p.Start(); err != nil {
				f.options.Say("%v", err)
			}
		}
	}
}

// Recover ends all disturbances: it heals every link, continues what is paused, and starts what does not run.
func (f *Fleet) Recover() error {
	var errs []error
	for _, s := range f.Services {
		for _, l := range s.Links() {
			errs = append(errs, l.Heal())
		}
	}
	for _, p := range f.programs() {
		p.Continue()
		errs = append(errs, p.Start())
	}
	return errors.Join(errs...)
}

// AwaitReady waits until everything is ready that was started. Its error says what is not.
func (f *Fleet) AwaitReady(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		var waiting []string
		for _, p := range f.programs() {
			if !p.Ready() {
				waiting = append(waiting, p.Name)
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %s; see the logs in %s: %w", strings.Join(waiting, ", "), f.dir("logs"), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Ailing returns what services say that is not in order with them just now, such as a broker that is away.
func (f *Fleet) Ailing(ctx context.Context) (ailing []string) {
	for _, s := range f.Services {
		if what := s.ails(ctx); what != "" {
			ailing = append(ailing, s.Name+": "+what)
		}
	}
	return ailing
}

// ails asks one service's readiness probe.
func (s *Service) ails(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin()+"/readyz", nil)
	if err != nil {
		return err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	var said struct {
		Status string
		Checks map[string]string
	}
	if err := json.NewDecoder(response.Body).Decode(&said); err != nil {
		return err.Error()
	}
	if said.Status == "ready" {
		return ""
	}
	maps.DeleteFunc(said.Checks, func(_, what string) bool { return what == "ok" })
	return fmt.Sprintf("%s %v", said.Status, said.Checks)
}

// Panics returns, with the names of the logs, the lines in which programs say that they had to give up: panics, fatal
// errors, and data races if they were built to find them.
func (f *Fleet) Panics() (lines []string, err error) {
	for _, p := range f.programs() {
		log, err := os.ReadFile(filepath.Join(p.Dir, p.Name+".log"))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(log)) {
			if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "WARNING: DATA RACE") {
				lines = append(lines, p.Name+".log: "+strings.TrimSpace(line))
			}
		}
	}
	return lines, nil
}

// grace is how long a service may take to end.
const grace = 15 * time.Second

// Stop ends everything, in order. An error says what did not end in order.
func (f *Fleet) Stop() error {
	f.cancel()
	f.keeping.Wait()
	var mu sync.Mutex
	var errs []error
	var stopping sync.WaitGroup
	for _, s := range f.Services {
		stopping.Go(func() {
			s.Continue()
			err := s.Stop(grace)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	stopping.Wait()
	if f.gateway != nil {
		errs = append(errs, f.gateway.close())
	}
	for _, s := range f.Services {
		for _, l := range s.Links() {
			errs = append(errs, l.Close())
		}
	}
	for _, b := range f.Brokers {
		b.Continue()
		errs = append(errs, b.Stop(grace))
	}
	for _, db := range f.databases {
		errs = append(errs, db.Close())
	}
	if f.Postgres != nil {
		errs = append(errs, f.Postgres.Stop())
	}
	return errors.Join(errs...)
}

// build builds the command line and the services into a folder.
func build(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	if err != nil {
		return fmt.Errorf("find the repository: go env GOWORK: %w", err)
	}
	work := strings.TrimSpace(string(out))
	if !filepath.IsAbs(work) {
		return errors.New("find the repository: there is no go.work here, or GOWORK is off: run this in the repository")
	}
	args := []string{"build", "-buildvcs=false", "-ldflags=-s -w", "-o", dir + string(filepath.Separator), "./framework/cmd/turnstile"}
	for _, name := range Names {
		args = append(args, "./services/"+name+"/cmd/"+name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Dir(work)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, text)
	}
	return nil
}

// environ is what programs inherit: nothing that configures a service.
func environ() (env []string) {
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// Ports that we choose are below those that systems choose for connections and for servers that ask for any: nobody
// takes them while their server is dead.
const (
	firstPort = 15000
	lastPort  = 32000
)

// freeAddr returns an address that nobody listens on, and another one each time.
func (f *Fleet) freeAddr() (string, error) {
	for range lastPort - firstPort {
		if f.port++; f.port > lastPort {
			f.port = firstPort
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(f.port))
		if l, err := net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("no port is free between %d and %d", firstPort, lastPort)
}
