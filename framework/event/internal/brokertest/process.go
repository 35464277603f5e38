// Package brokertest is what the tests of brokers with a server of their own
// share: a server in the process, and one in its own to kill; how a session
// connects, and what it makes of a server that hangs; load while the server is
// killed; and latency.
package brokertest

import (
	"bufio"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const (
	serveDir  = "BROKER_TEST_SERVE_DIR"
	servePort = "BROKER_TEST_SERVE_PORT"
)

// Server is one that runs in this process.
type Server interface {
	URL() string
	Shutdown()
}

// Main is the TestMain of a package that uses Process: the test binary is also
// the server that tests kill, which start runs.
func Main(m *testing.M, start func(dir string, port int) (Server, error)) {
	dir := os.Getenv(serveDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	port, err := strconv.Atoi(os.Getenv(servePort))
	if err != nil {
		panic(err)
	}
	server, err := start(dir, port)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(server.URL())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends, however it does
	server.Shutdown()
}

// Process is a server in a process of its own.
type Process struct {
	Dir string // of its files
	URL string // stays the same

	t   testing.TB
	cmd *exec.Cmd
}

// StartProcess starts one that ends with t.
func StartProcess(t testing.TB) *Process {
	t.Helper()
	p := &Process{t: t, Dir: t.TempDir(), URL: fmt.Sprintf("nats://127.0.0.1:%d", FreePort(t))}
	p.Start()
	t.Cleanup(func() {
		if p.cmd != nil {
			p.Kill()
		}
	})
	return p
}

// Start returns when clients can connect.
func (p *Process) Start() {
	p.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveDir+"="+p.Dir, servePort+"="+strconv.Itoa(Port(p.t, p.URL)))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // it ends when this process does
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		in.Close()
		p.t.Fatalf("the server process did not start: %v (%v)", cmd.Wait(), err)
	}
	p.cmd, p.URL = cmd, strings.TrimSpace(line)
}

// Kill ends the process with SIGKILL.
func (p *Process) Kill() {
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Errorf("kill the server: %v", err)
	}
	_ = p.cmd.Wait() // it says that the process was killed
	p.cmd = nil
}

// Hang stops the process, whose connections stay open.
func (p *Process) Hang() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		p.t.Fatal(err)
	}
	// It may go on for a moment: wait until it has really stopped.
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		p.t.Fatalf("wait for the server to stop: %v, status %v", err, status)
	}
}

// Port returns the port of a server's URL.
func Port(t testing.TB, address string) int {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
