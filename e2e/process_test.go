package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// patience is how long a test waits for what must happen.
const patience = journey.Patience

// services are the programs of the application.
var services = []string{"auth", "orders", "payments", "tickets"}

// programs are built once, by the first test that needs them, in a folder that TestMain removes.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

// build returns a folder with the command line, turnstile, and the services in bin/.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts programs: not with -short")
	}
	p := &programs
	p.once.Do(func() {
		if p.dir, p.err = os.MkdirTemp("", "turnstile-e2e-"); p.err != nil {
			return
		}
		if p.err = compile(filepath.Join(p.dir, "turnstile"), "./framework/cmd/turnstile"); p.err != nil {
			return
		}
		var mains []string
		for _, name := range services {
			mains = append(mains, "./services/"+name+"/cmd/"+name)
		}
		p.err = compile(filepath.Join(p.dir, "bin")+string(filepath.Separator), mains...)
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.dir
}

// compile builds programs of the repository. The flags are those of turnstile dev, which then finds them up to date.
func compile(out string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-buildvcs=false", "-ldflags=-s -w", "-o", out}, packages...)...)
	cmd.Dir, cmd.Env = root(), environ()
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, text)
	}
	return nil
}

// root returns the folder of the repository. Tests run in the folder of their package.
func root() string {
	dir, err := filepath.Abs("..")
	if err != nil {
		panic(err) // the current folder is gone
	}
	return dir
}

// environ returns what children inherit: what the go command needs, and nothing that configures a service.
func environ(more ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "GO") && name != "GOWORK" || name == "CGO_ENABLED" ||
			name == "PATH" || name == "HOME" || name == "TMPDIR" || strings.HasPrefix(name, "XDG_") ||
			strings.HasSuffix(strings.ToUpper(name), "_PROXY") || strings.HasPrefix(name, "SSL_CERT_") {
			env = append(env, kv)
		}
	}
	return append(env, more...)
}

// workspace makes a Go workspace in a temporary folder: the framework, the services if the test wants them, and the
// modules that are in the folder already. Programs that were built are in place, so that nothing is linked again.
func workspace(t *testing.T, dir string, withServices bool) {
	t.Helper()
	built := build(t)
	use := []string{filepath.Join(root(), "framework")}
	if withServices {
		for _, name := range services {
			use = append(use, filepath.Join(root(), "services", name))
			for _, bin := range []string{"bin", "demo"} {
				copyFile(t, filepath.Join(built, "bin", name), filepath.Join(dir, ".turnstile", bin, name))
			}
		}
	}
	own, err := filepath.Glob(filepath.Join(dir, "*", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, mod := range own {
		use = append(use, "./"+filepath.Base(filepath.Dir(mod)))
	}
	write(t, filepath.Join(dir, "go.work"), "go 1.26.0\n\nuse (\n\t"+strings.Join(use, "\n\t")+"\n)\n")
	if _, err := os.Stat(filepath.Join(root(), "go.work.sum")); err == nil {
		copyFile(t, filepath.Join(root(), "go.work.sum"), filepath.Join(dir, "go.work.sum"))
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// system is a run of `turnstile dev` in a workspace.
type system struct {
	dir  string // of the workspace
	env  []string
	url  string // of the gateway: the same in all runs
	out  *output
	cmd  *exec.Cmd
	done chan struct{} // closed when the command has ended
}

// dev starts the services of a workspace and waits until all are ready.
func dev(t *testing.T, dir string, env []string, args ...string) *system {
	t.Helper()
	s := &system{dir: dir, env: env}
	t.Cleanup(func() {
		if s.running() {
			s.stop(t)
		}
	})
	s.start(t, args...)
	return s
}

// start starts what was stopped or killed, on the same address, and waits until all services are ready.
func (s *system) start(t *testing.T, args ...string) {
	t.Helper()
	address := "127.0.0.1:0"
	if s.url != "" {
		address = strings.TrimPrefix(s.url, "http://")
	}
	s.out = &output{changed: make(chan struct{})}
	s.cmd = exec.Command(filepath.Join(build(t), "turnstile"), append([]string{"dev", "--listen", address}, args...)...)
	s.cmd.Dir, s.cmd.Env = s.dir, environ(s.env...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.done = make(chan struct{})
	cmd, out, done := s.cmd, s.out, s.done
	go func() {
		_ = cmd.Wait() // the state tells
		close(done)
		out.end()
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%v in %s:\n%s", cmd.Args, s.dir, out)
		}
	})
	s.await(t, `Turnstile is ready after`)
	var lock struct{ URL string }
	s.json(t, "lock", &lock)
	if s.url == "" {
		s.url = lock.URL
	}
}

// site is where people find it.
func (s *system) site() journey.Site { return journey.Site{URL: s.url} }

func (s *system) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return s.cmd.Process != nil
	}
}

// stop asks the command to stop and checks that all goes well.
func (s *system) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	s.ended(t)
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the exit code is %d after SIGTERM, want 0", code)
	}
}

// crash kills the command, and so everything that it runs.
func (s *system) crash(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	s.ended(t)
}

func (s *system) ended(t *testing.T) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		t.Fatalf("turnstile does not end:\n%s", s.out)
	}
}

// await waits until the command has written what pattern matches, and returns the match. Each call looks at what comes
// after the match of the one before.
func (s *system) await(t *testing.T, pattern string) []string {
	t.Helper()
	match, err := s.out.await(regexp.MustCompile(pattern), patience)
	if err != nil {
		t.Fatal(err)
	}
	return match
}

// pid returns the process id of a service, or of the broker, that is ready; 0 if it is not.
func (s *system) pid(name string) int {
	var ready struct{ PID int }
	text, err := os.ReadFile(filepath.Join(s.dir, ".turnstile", "ready", name+".json"))
	if err != nil || json.Unmarshal(text, &ready) != nil {
		return 0
	}
	return ready.PID
}

// kill ends a process with SIGKILL, and returns what waits until it is ready again.
func (s *system) kill(t *testing.T, name string) (back func()) {
	t.Helper()
	old := s.pid(name)
	if old == 0 {
		t.Fatalf("%s does not run, so it cannot be killed", name)
	}
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", name, err)
	}
	return func() {
		t.Helper()
		journey.Eventually(t, name+" is ready again", func() error {
			if pid := s.pid(name); pid == 0 || pid == old {
				return errors.New("it is not")
			}
			return nil
		})
	}
}

// json reads a file of the state folder.
func (s *system) json(t *testing.T, name string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, filepath.Join(s.dir, ".turnstile", name))), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// run runs a command of turnstile to its end.
func run(t *testing.T, dir string, args ...string) (text string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(build(t), "turnstile"), args...)
	cmd.Dir, cmd.Env = dir, environ()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// output keeps what a command writes, and wakes those who wait for something in it.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	read    int // by await
	over    bool
	changed chan struct{}
}

var _ io.Writer = (*output)(nil)

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake()
	return o.text.Write(p)
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	o.wake()
}

func (o *output) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) await(pattern *regexp.Regexp, patience time.Duration) ([]string, error) {
	deadline := time.After(patience)
	for {
		o.mu.Lock()
		rest := o.text.Bytes()[o.read:]
		at := pattern.FindSubmatchIndex(rest)
		if at != nil {
			o.read += at[1]
			match := make([]string, len(at)/2)
			for i := range match {
				if at[2*i] >= 0 {
					match[i] = string(rest[at[2*i]:at[2*i+1]])
				}
			}
			o.mu.Unlock()
			return match, nil
		}
		changed, over := o.changed, o.over
		o.mu.Unlock()
		if over {
			return nil, fmt.Errorf("the command ended without writing %q", pattern)
		}
		select {
		case <-changed:
		case <-deadline:
			return nil, fmt.Errorf("the command did not write %q within %v", pattern, patience)
		}
	}
}
