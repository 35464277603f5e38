package process

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// shellGuard kills a process group once this process is gone, on systems whose kernel does not offer that: a shell
// waits for the end of a pipe whose other end only we hold. unguard calls it off. Without a shell there is no guard.
func shellGuard(group int) (unguard func()) {
	read, write, err := os.Pipe()
	if err != nil {
		return func() {}
	}
	cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("read -r _; kill -KILL -- -%d", group))
	cmd.Stdin = read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	read.Close()
	if err != nil {
		write.Close()
		return func() {}
	}
	return func() {
		_ = cmd.Process.Kill()
		write.Close()
		_ = cmd.Wait() // killed, as asked
	}
}
