package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the program that the tests run: TEST_CHILD says what it is to do.
func TestMain(m *testing.M) {
	if what := os.Getenv("TEST_CHILD"); what != "" {
		child(what)
		return
	}
	os.Exit(m.Run())
}

func child(what string) {
	switch what {
	case "serve": // ready at once, drains at SIGTERM
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		beReady()
		<-terminated
		fmt.Println("drained")
	case "stubborn": // takes no notice of SIGTERM
		signal.Ignore(syscall.SIGTERM)
		beReady()
		time.Sleep(time.Hour) // a select without cases would be a deadlock
	case "crash":
		for i := range 50 {
			fmt.Println("line", i)
		}
		fmt.Fprint(os.Stderr, "the end") // no line end
		os.Exit(3)
	case "family": // has a child of its own, says its id, and stays
		grandchild := exec.Command(os.Args[0])
		grandchild.Env = append(os.Environ(), "TEST_CHILD=stubborn", "READY_FILE=")
		if err := grandchild.Start(); err != nil {
			panic(err)
		}
		fmt.Println(grandchild.Process.Pid)
		beReady()
		time.Sleep(time.Hour)
	case "parent", "shell parent": // starts a process as we do, says its id, and stays
		p, err := Start(Command{Path: os.Args[0], Env: []string{"TEST_CHILD=stubborn"}})
		if err != nil {
			panic(err)
		}
		if what == "shell parent" {
			shellGuard(p.PID())
		}
		fmt.Println(p.PID())
		time.Sleep(time.Hour)
	}
}

func beReady() {
	if file := os.Getenv("READY_FILE"); file != "" {
		text, err := json.Marshal(Ready{Name: "child", PID: os.Getpid(), Addresses: map[string]string{"http": "127.0.0.1:1"}})
		if err != nil {
			panic(err)
		}
		if err := errors.Join(os.WriteFile(file+".new", text, 0o644), os.Rename(file+".new", file)); err != nil {
			panic(err)
		}
	}
}

// command makes the test binary do what.
func command(t *testing.T, what string) Command {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ready.json")
	return Command{Path: os.Args[0], ReadyFile: file, Env: Environ(os.Environ(), []string{"TEST_CHILD=" + what, "READY_FILE=" + file})}
}

func start(t *testing.T, c Command) *Process {
	t.Helper()
	p, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(); <-p.Done() })
	return p
}

func TestStopDrains(t *testing.T) {
	c := command(t, "serve")
	var lines []string
	c.Line = func(line []byte) { lines = append(lines, string(line)) }
	p := start(t, c)
	if r := <-p.Ready(); r.PID != p.PID() || r.Addresses["http"] != "127.0.0.1:1" {
		t.Errorf("ready = %+v, want process %d", r, p.PID())
	}
	exit := p.Stop(time.Minute)
	if exit.Code != 0 || exit.Signal != 0 || exit.String() != "exit code 0" {
		t.Errorf("exit = %v", exit)
	}
	if !slices.Equal(lines, []string{"drained"}) {
		t.Errorf("lines = %q", lines)
	}
}

func TestStopKillsAfterGrace(t *testing.T) {
	p := start(t, command(t, "stubborn"))
	<-p.Ready()
	if exit := p.Stop(10 * time.Millisecond); exit.Signal != syscall.SIGKILL || exit.String() != "ended by SIGKILL" {
		t.Errorf("exit = %v, want SIGKILL", exit)
	}
}

func TestExitTellsCodeAndLastLines(t *testing.T) {
	exit := start(t, command(t, "crash")).Exit()
	if exit.Code != 3 {
		t.Errorf("exit = %v, want code 3", exit)
	}
	if n := len(exit.Tail); n != tailLines || exit.Tail[n-1] != "the end" || exit.Tail[n-2] != "line 49" {
		t.Errorf("tail = %q", exit.Tail)
	}
}

func TestStartFails(t *testing.T) {
	if _, err := Start(Command{Path: "/does/not/exist"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start = %v, want %v", err, os.ErrNotExist)
	}
}

func TestStaleReadyFileIsNotBelieved(t *testing.T) {
	c := command(t, "crash")
	if err := os.WriteFile(c.ReadyFile, []byte(`{"name":"old"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	p := start(t, c)
	p.Exit()
	select {
	case r := <-p.Ready():
		t.Errorf("ready = %+v, written by an earlier process", r)
	default:
	}
}

func TestKillEndsTheWholeGroup(t *testing.T) {
	c := command(t, "family")
	said := make(chan int, 1)
	c.Line = func(line []byte) {
		if pid, err := strconv.Atoi(string(line)); err == nil {
			said <- pid
		}
	}
	p := start(t, c)
	grandchild := <-said
	p.Kill()
	p.Exit()
	awaitEnd(t, grandchild)
}

func TestChildrenDieWithUs(t *testing.T) {
	for _, what := range []string{"parent", "shell parent"} {
		t.Run(what, func(t *testing.T) {
			parent := exec.Command(os.Args[0])
			parent.Env = append(os.Environ(), "TEST_CHILD="+what)
			out, err := parent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = parent.Wait() // killed, as asked
			awaitEnd(t, pid)
		})
	}
}

// The shell is what guards children where the kernel does not.
func TestShellGuard(t *testing.T) {
	p := start(t, command(t, "stubborn"))
	<-p.Ready()
	shellGuard(p.PID())()
	if err := syscall.Kill(p.PID(), 0); err != nil {
		t.Errorf("the process is gone after its guard was called off: %v", err)
	}
}

// awaitEnd waits for a process that is not our child to be gone, or to be a zombie that nobody collects.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			return
		}
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

func TestEnviron(t *testing.T) {
	got := Environ([]string{"B=1", "A=1", "nonsense"}, []string{"B=2=3", "C="})
	if want := []string{"A=1", "B=2=3", "C="}; !slices.Equal(got, want) {
		t.Errorf("Environ = %q, want %q", got, want)
	}
}

// supervised runs a Supervisor whose states arrive on a channel.
type supervised struct {
	*Supervisor
	states chan State
	stop   func()
}

func supervise(t *testing.T, commands func() Command, backoff, backoffMax time.Duration) *supervised {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &supervised{states: make(chan State, 100)}
	s.Supervisor = &Supervisor{
		Command: commands, Observe: func(state State) { s.states <- state },
		Grace: time.Minute, Backoff: backoff, BackoffMax: backoffMax,
	}
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx); close(s.states) })
	s.stop = func() { cancel(); running.Wait() }
	t.Cleanup(s.stop)
	return s
}

// expect takes the next states, which must be in these phases, and returns the last.
func (s *supervised) expect(t *testing.T, phases ...Phase) (last State) {
	t.Helper()
	for _, want := range phases {
		if last = <-s.states; last.Phase != want {
			t.Fatalf("phase = %d, want %d (%+v)", last.Phase, want, last)
		}
	}
	return last
}

func TestSupervisorRestarts(t *testing.T) {
	c := command(t, "serve")
	s := supervise(t, func() Command { return c }, time.Hour, time.Hour)
	first := s.expect(t, Starting, Up)
	s.Restart()
	second := s.expect(t, Stopping, Starting, Up)
	if first.PID == second.PID {
		t.Error("it is the same process")
	}
	s.stop()
	s.expect(t, Stopping, Stopped)
}

func TestSupervisorStartsAgainAfterAKill(t *testing.T) {
	c := command(t, "serve")
	s := supervise(t, func() Command { return c }, time.Millisecond, time.Hour)
	s.expect(t, Starting, Up)
	if !s.Kill() {
		t.Error("there was nothing to kill")
	}
	if crash := s.expect(t, Crashed); crash.Exit.Signal != syscall.SIGKILL || crash.Retry != time.Millisecond {
		t.Errorf("crash = %+v", crash)
	}
	s.expect(t, Starting, Up)
}

func TestSupervisorBacksOff(t *testing.T) {
	c := command(t, "crash")
	s := supervise(t, func() Command { return c }, time.Millisecond, 4*time.Millisecond)
	for _, want := range []time.Duration{1, 2, 4, 4} {
		if crash := s.expect(t, Starting, Crashed); crash.Retry != want*time.Millisecond || crash.Exit.Code != 3 {
			t.Errorf("crash = %+v, want a retry in %d ms", crash, want)
		}
	}
}

func TestSupervisorRestartEndsTheWait(t *testing.T) {
	c := command(t, "crash")
	var mu sync.Mutex
	s := supervise(t, func() Command { mu.Lock(); defer mu.Unlock(); return c }, time.Hour, time.Hour)
	if s.expect(t, Starting, Crashed); s.Kill() {
		t.Error("a crashed process was killed")
	}
	mu.Lock()
	c = command(t, "serve") // the developer has mended it
	mu.Unlock()
	s.Restart()
	s.expect(t, Starting, Up)
}

func TestSupervisorOfAProgramThatIsMissing(t *testing.T) {
	s := supervise(t, func() Command { return Command{Path: "/does/not/exist"} }, time.Hour, time.Hour)
	if crash := s.expect(t, Crashed); !errors.Is(crash.Err, os.ErrNotExist) {
		t.Errorf("crash = %+v, want %v", crash, os.ErrNotExist)
	}
	s.stop()
	s.expect(t, Stopped)
}
