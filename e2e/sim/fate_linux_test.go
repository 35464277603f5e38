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

// startFated starts a process in which chance depends on the seed alone: which of several channels a select takes, in
// which order a map is gone through, how long a jittered pause is. A Go program draws all of that from sixteen random
// bytes that the kernel lays before it. Here it finds others.
func startFated(cmd *exec.Cmd, seed uint64) error {
	runtime.LockOSThread() // who traces is a thread
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	if err := errors.Join(writeRandom(pid, seed), syscall.PtraceDetach(pid)); err != nil {
		return errors.Join(fmt.Errorf("seed the runtime of process %d: %w", pid, err), cmd.Process.Kill())
	}
	return nil
}

// writeRandom writes the random bytes of a traced process that has stopped before its first instruction.
func writeRandom(pid int, seed uint64) error {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return err
	}
	if !status.Stopped() {
		return fmt.Errorf("it has not stopped: %v", status)
	}
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
		var random [16]byte // the runtime takes no half of zeros
		binary.LittleEndian.PutUint64(random[:], seed+1)
		binary.LittleEndian.PutUint64(random[8:], ^seed)
		_, err := syscall.PtracePokeData(pid, at, random[:])
		return err
	}
	return errors.New("its auxiliary vector has no AT_RANDOM")
}
