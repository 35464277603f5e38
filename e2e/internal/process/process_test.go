package process_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/process"
)

// TestMain lets the test's program be the one that is run, as told by MODE.
func TestMain(m *testing.M) {
	switch mode := os.Getenv("MODE"); mode {
	case "":
		os.Exit(m.Run())
	case "crash":
		os.Exit(3)
	case "serve", "stubborn":
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		ready()
		<-term
		if mode == "stubborn" {
			<-term
		}
		fmt.Println("bye")
	case "parent": // is killed, and its child with it
		p := &process.Program{Name: "child", Path: os.Args[0], Dir: os.Getenv("DIR"), Env: []string{"MODE=serve"}}
		if err := p.Start(); err != nil {
			panic(err)
		}
		fmt.Println("started")
		select {}
	}
}

func ready() {
	file := os.Getenv("READY_FILE")
	if err := os.WriteFile(file+".new", fmt.Appendf(nil, `{"pid": %d, "admin": "127.0.0.1:1"}`, os.Getpid()), 0o644); err != nil {
		panic(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		panic(err)
	}
}

func program(t *testing.T, mode string) *process.Program {
	t.Helper()
	p := &process.Program{Name: mode, Path: os.Args[0], Dir: t.TempDir(), Env: []string{"MODE=" + mode}}
	t.Cleanup(p.Kill)
	start(t, p)
	return p
}

func start(t *testing.T, p *process.Program) {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
}

// pid is the process id of a program that is ready.
func pid(t *testing.T, dir, name string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name+".ready"))
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ PID int }
	if err := json.Unmarshal(text, &said); err != nil {
		t.Fatal(err)
	}
	return said.PID
}

func await(t *testing.T, what string, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !true(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestStartAgain(t *testing.T) {
	t.Parallel()
	p := program(t, "serve")
	await(t, "ready", p.Ready)
	if p.Admin() != "127.0.0.1:1" {
		t.Errorf("its admin port is %q, want what it said", p.Admin())
	}
	start(t, p) // it runs: nothing happens
	if !p.Ready() {
		t.Error("it was started anew though it ran")
	}
	if err := p.Stop(time.Minute); err != nil || p.Running() || p.Ready() || p.Ended() != "" {
		t.Errorf("after Stop: %v, running %t, ready %t, ended %q; want an end in order", err, p.Running(), p.Ready(), p.Ended())
	}
	start(t, p)
	await(t, "ready again", p.Ready)
	if p.Kill(); p.Running() || p.Ended() != "" {
		t.Errorf("after Kill: running %t, ended by itself: %q", p.Running(), p.Ended())
	}
	log, err := os.ReadFile(filepath.Join(p.Dir, "serve.log"))
	if err != nil || string(log) != "bye\n" {
		t.Errorf("the log is %q, %v; want all that it wrote in all runs", log, err)
	}
}

func TestStopOfTheStubborn(t *testing.T) {
	t.Parallel()
	p := program(t, "stubborn")
	await(t, "ready", p.Ready)
	if err := p.Stop(10 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not end") {
		t.Errorf("Stop: %v, want that it did not end", err)
	}
	if p.Running() {
		t.Error("it runs")
	}
}

func TestEndByItself(t *testing.T) {
	t.Parallel()
	p := program(t, "crash")
	await(t, "the crash", func() bool { return p.Ended() != "" })
	if p.Ended() != "exit status 3" {
		t.Errorf("it ended with %q, want its exit status", p.Ended())
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	p := program(t, "serve")
	await(t, "ready", p.Ready)
	pid := pid(t, p.Dir, "serve")
	state := func() string {
		out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	p.Pause()
	await(t, "the pause", func() bool { return strings.HasPrefix(state(), "T") })
	p.Continue()
	await(t, "its end", func() bool { return !strings.HasPrefix(state(), "T") })
	p.Pause()
	p.Kill()
	if p.Running() {
		t.Error("a paused program survived SIGKILL")
	}
}

// TestDeathOfTheParent kills a process that has started a program.
func TestDeathOfTheParent(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the kernel offers that on Linux only")
	}
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = []string{"MODE=parent", "DIR=" + dir}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Process.Kill() // if it was not before
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	await(t, "the child is ready", func() bool {
		_, err := os.Stat(filepath.Join(dir, "child.ready"))
		return err == nil
	})
	child := pid(t, dir, "child")
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed, as asked
	await(t, "the child's end", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		return err != nil || strings.Contains(string(stat), ") Z ") // gone, or nobody has buried it yet
	})
}
