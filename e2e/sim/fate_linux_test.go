//go:build amd64 || arm64

package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// startFated starts a process in which nothing happens by chance, or because the machine is busy. With GOMAXPROCS=1 and
// GOGC=off two things are left that could make a difference in a Go program, and both are taken away as a debugger would.
//
// What it draws (which channel a select takes, in which order a map is gone through, how long a jittered pause is)
// follows from sixteen random bytes that the kernel lays before it. Here it finds others, made from the seed.
//
// And its monitor, the first thread that the runtime starts, interrupts goroutines that seem to have run for too long
// by the clock on the wall. It is stopped before its first instruction; a program with one processor can do without.
//
// The function returned has to be called when the process has ended, before it is waited for.
func startFated(cmd *exec.Cmd, seed uint64) (ended func(), err error) {
	runtime.LockOSThread() // who traces is a thread
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	monitor, err := prepare(pid, seed)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("trace process %d: %w", pid, err), cmd.Process.Kill())
	}
	return func() {
		for { // the process has not ended before its last thread has
			var status syscall.WaitStatus
			if _, err := syscall.Wait4(monitor, &status, syscall.WALL, nil); !errors.Is(err, syscall.EINTR) && (err != nil || status.Exited() || status.Signaled()) {
				return
			}
		}
	}, nil
}

// prepare lets a process run that has stopped before its first instruction, and returns the thread that it does not.
func prepare(pid int, seed uint64) (monitor int, err error) {
	if err := awaitStop(pid); err != nil {
		return 0, err
	}
	if err := writeRandom(pid, seed); err != nil {
		return 0, err
	}
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACECLONE); err != nil {
		return 0, err
	}
	if err := syscall.PtraceCont(pid, 0); err != nil {
		return 0, err
	}
	if err := awaitStop(pid); err != nil { // where it makes its first thread
		return 0, err
	}
	thread, err := syscall.PtraceGetEventMsg(pid)
	if err != nil {
		return 0, err
	}
	if err := awaitStop(int(thread)); err != nil {
		return 0, err
	}
	return int(thread), syscall.PtraceDetach(pid)
}

func awaitStop(thread int) error {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(thread, &status, syscall.WALL, nil); err != nil {
		return err
	}
	if !status.Stopped() {
		return fmt.Errorf("thread %d has not stopped: %#x", thread, uint32(status))
	}
	return nil
}

// writeRandom writes the random bytes of a process that has stopped.
func writeRandom(pid int, seed uint64) error {
	vector, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return err
	}
	const atRandom, word = 25, 8
	for i := 0; i+2*word <= len(vector); i += 2 * word {
		if binary.NativeEndian.Uint64(vector[i:]) != atRandom {
			continue
		}
		at := uintptr(binary.NativeEndian.Uint64(vector[i+word:]))
		var random [16]byte // neither half may be zero
		binary.LittleEndian.PutUint64(random[:], seed+1)
		binary.LittleEndian.PutUint64(random[8:], ^seed)
		_, err := syscall.PtracePokeData(pid, at, random[:])
		return err
	}
	return errors.New("its auxiliary vector has no AT_RANDOM")
}
