// Package process runs programs as children that can be harmed: killed, paused, continued and started again. They form
// process groups of their own, so that Ctrl-C at the terminal reaches only us, and on Linux they die with us even if we
// are killed.
package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Program is a program that may be run again and again, once at a time. Its fields are not to be changed once it was
// started, but by Configure.
type Program struct {
	Name string // unique: that of its log and of its ready file
	Path string
	Args []string
	Env  []string
	Dir  string // for <name>.log, and <name>.ready, which the program writes as READY_FILE says

	mu      sync.Mutex
	running *run // nil before the first start
	asked   bool // to end
}

// run is one run of a program.
type run struct {
	process *os.Process
	done    chan struct{} // closed when it has ended
	state   *os.ProcessState
}

// Start starts the program. It does nothing if the program runs.
func (p *Program) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alive() {
		return nil
	}
	if err := os.Remove(p.readyFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	log, err := os.OpenFile(filepath.Join(p.Dir, p.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Dir, cmd.Env = p.Dir, slices.Concat(p.Env, []string{"READY_FILE=" + p.readyFile()})
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes()
	started := make(chan error)
	r := &run{done: make(chan struct{})}
	go func() {
		// Linux ties the death of a child to that of the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		r.process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait() // the state says more
			r.state = cmd.ProcessState
			close(r.done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.running, p.asked = r, false
	return nil
}

// Configure adds to the environment of later runs; what is in it already gets the new value.
func (p *Program) Configure(env ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Env = slices.Concat(p.Env, env) // the last of a name counts
}

// alive is called with the lock held.
func (p *Program) alive() bool {
	if p.running == nil {
		return false
	}
	select {
	case <-p.running.done:
		return false
	default:
		return true
	}
}

// Running reports whether the program runs, be it paused or not.
func (p *Program) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alive()
}

// Kill ends the program with SIGKILL, paused or not, and waits for its end.
func (p *Program) Kill() { _ = p.end(syscall.SIGKILL, 0) } // which has nothing to report

// Stop asks the program to end (SIGTERM), and kills it if it has not ended after grace. It must not be paused. An error
// says that it did not end, or not in order.
func (p *Program) Stop(grace time.Duration) error { return p.end(syscall.SIGTERM, grace) }

func (p *Program) end(signal syscall.Signal, grace time.Duration) error {
	p.mu.Lock()
	r, alive := p.running, p.alive()
	p.asked = true
	p.mu.Unlock()
	if !alive {
		return nil
	}
	_ = r.process.Signal(signal) // an error is that it has ended
	if signal == syscall.SIGKILL {
		<-r.done
		return nil
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		_ = r.process.Kill()
		<-r.done
		return fmt.Errorf("%s did not end within %v after SIGTERM", p.Name, grace)
	}
	if !r.state.Success() {
		return fmt.Errorf("%s ended with %v after SIGTERM", p.Name, r.state)
	}
	return nil
}

// Pause stops the program where it is (SIGSTOP), until Continue.
func (p *Program) Pause() { p.signal(syscall.SIGSTOP) }

// Continue ends a pause (SIGCONT).
func (p *Program) Continue() { p.signal(syscall.SIGCONT) }

func (p *Program) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alive() {
		_ = p.running.process.Signal(s) // an error is that it has ended
	}
}

// Ready reports whether the program runs and has been ready since its last start.
func (p *Program) Ready() bool {
	_, ready := p.announced()
	return ready
}

// Admin is the address of the program's admin port. It is empty until the program is ready, and if it has none.
func (p *Program) Admin() string {
	addr, _ := p.announced()
	return addr
}

// announced is what the program has said of itself when it was ready.
func (p *Program) announced() (admin string, ready bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.alive() {
		return "", false
	}
	var said struct{ Admin string }
	text, err := os.ReadFile(p.readyFile())
	if err != nil || json.Unmarshal(text, &said) != nil {
		return "", false
	}
	return said.Admin, true
}

// Ended says how the program ended, if it has ended by itself; otherwise it is "".
func (p *Program) Ended() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil || p.asked || p.alive() {
		return ""
	}
	return p.running.state.String()
}

func (p *Program) readyFile() string { return filepath.Join(p.Dir, p.Name+".ready") }
