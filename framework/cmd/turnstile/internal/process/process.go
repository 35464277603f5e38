// Package process runs programs as children of this process: one run of a program (Process), and a program that is
// kept running (Supervisor). Children form process groups of their own, so that Ctrl-C at the terminal reaches only
// us, and die with us even if we are killed.
package process

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyPoll = 10 * time.Millisecond
	tailLines = 40
	maxLine   = 1 << 20
)

// Command says how to start a program.
type Command struct {
	Path string
	Args []string // without the program's name
	Dir  string
	Env  []string
	// ReadyFile is where the program writes a Ready as JSON once it can work.
	ReadyFile string
	// Line receives each line that the program writes to its standard output and standard error; calls do not overlap.
	Line func(line []byte)
}

// Ready is what a program says of itself once it can work.
type Ready struct {
	Name      string            `json:"name"`
	PID       int               `json:"pid"`
	Admin     string            `json:"admin"`
	Addresses map[string]string `json:"addresses"`
}

// Exit is how a process ended.
type Exit struct {
	Code   int            // exit code, -1 after a signal
	Signal syscall.Signal // 0 unless a signal ended it
	Tail   []string       // the last lines it wrote
}

// String says it in words, such as "exit code 2" or "killed by SIGKILL".
func (e Exit) String() string {
	if e.Signal != 0 {
		return "ended by " + signalName(e.Signal)
	}
	return "exit code " + strconv.Itoa(e.Code)
}

func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGKILL:
		return "SIGKILL"
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGSEGV:
		return "SIGSEGV"
	case syscall.SIGABRT:
		return "SIGABRT"
	}
	return s.String()
}

// Process is one run of a program.
type Process struct {
	os    *os.Process
	ready chan Ready
	done  chan struct{}
	exit  Exit // valid once done is closed
}

// Start starts the program.
func Start(c Command) (*Process, error) {
	if c.ReadyFile != "" {
		if err := os.Remove(c.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("start %s: %w", c.Path, err)
		}
	}
	p := &Process{ready: make(chan Ready, 1), done: make(chan struct{})}
	started := make(chan error)
	go p.run(c, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	return p, nil
}

// run starts the program, reports that on started, and waits for its end. It stays on one thread, since Linux ties
// the death of a child to that of the thread that started it.
func (p *Process) run(c Command, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	cmd.SysProcAttr = attributes()
	read, write, err := os.Pipe()
	if err != nil {
		started <- err
		return
	}
	cmd.Stdout, cmd.Stderr = write, write
	err = cmd.Start()
	write.Close()
	if err != nil {
		read.Close()
		started <- err
		return
	}
	p.os = cmd.Process
	unguard := guard(p.os.Pid)
	started <- nil

	var tail []string
	var reading sync.WaitGroup
	reading.Go(func() { tail = lines(read, c.Line) })
	var waiting sync.WaitGroup
	exited := make(chan struct{})
	if c.ReadyFile != "" {
		waiting.Go(func() { p.await(c.ReadyFile, exited) })
	}
	_ = cmd.Wait() // the process state below says more than the error
	close(exited)
	_ = syscall.Kill(-p.os.Pid, syscall.SIGKILL) // what it started and left behind; usually nothing
	unguard()
	// A grandchild that escaped from the group may hold the pipe open for ever: what it says is not waited for.
	stop := time.AfterFunc(time.Second, func() { read.Close() })
	reading.Wait()
	stop.Stop()
	read.Close()
	waiting.Wait()
	p.exit = Exit{Code: cmd.ProcessState.ExitCode(), Tail: tail}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		p.exit.Signal = status.Signal()
	}
	close(p.done)
}

// lines hands over what is written to r line by line and returns the last lines.
func lines(r io.Reader, line func([]byte)) (tail []string) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxLine)
	for {
		for s.Scan() {
			if line != nil {
				line(s.Bytes())
			}
			if len(tail) == tailLines {
				tail = append(tail[:0], tail[1:]...)
			}
			tail = append(tail, s.Text())
		}
		if !errors.Is(s.Err(), bufio.ErrTooLong) {
			return tail
		}
		s = bufio.NewScanner(r) // an absurdly long line is lost; the pipe must not block
		s.Buffer(make([]byte, 64<<10), maxLine)
	}
}

// await reads the ready file once it is there.
func (p *Process) await(file string, exited <-chan struct{}) {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		var r Ready
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &r) == nil {
			p.ready <- r
			return
		}
		select {
		case <-exited:
			return
		case <-tick.C:
		}
	}
}

// PID is the process id, which is the process group's id, too.
func (p *Process) PID() int { return p.os.Pid }

// Ready delivers what the program wrote to its ready file, once.
func (p *Process) Ready() <-chan Ready { return p.ready }

// Done is closed when the process has ended and all that it wrote was handed over.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit waits for the end of the process and says how it ended.
func (p *Process) Exit() Exit {
	<-p.done
	return p.exit
}

// Terminate asks the process to finish its work and end (SIGTERM).
func (p *Process) Terminate() { _ = p.os.Signal(syscall.SIGTERM) } // fails only if it is gone

// Kill ends the process and what it started (SIGKILL).
func (p *Process) Kill() {
	if p.os.Kill() == nil { // else it is gone, and its number may be somebody else's
		_ = syscall.Kill(-p.os.Pid, syscall.SIGKILL)
	}
}

// Stop terminates the process, kills it if it has not ended after grace, and waits for its end.
func (p *Process) Stop(grace time.Duration) Exit {
	p.Terminate()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.Kill()
	}
	return p.Exit()
}

// Environ merges environments: of a variable that is given more than once, the last value holds. The result is sorted.
func Environ(lists ...[]string) []string {
	values := map[string]string{}
	for _, list := range lists {
		for _, kv := range list {
			if name, value, ok := strings.Cut(kv, "="); ok {
				values[name] = value
			}
		}
	}
	env := make([]string, 0, len(values))
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}
