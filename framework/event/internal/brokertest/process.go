// Package brokertest is what the tests of brokers with a server of their own
// share: a server in the process, and one in its own to kill; how a session
// connects, and what it makes of a server that hangs; load while the server is
// killed; and latency.
package brokertest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const serve = "BROKER_TEST_SERVE"

// Server is one that runs in this process.
type Server interface {
	URL() string
	Ready(ctx context.Context) error
	Shutdown()
}

// Node is what a server in a process of its own is to be.
type Node struct {
	Dir   string // of its files
	Port  int
	Token string            // none if empty
	Name  string            // among Peers
	Peers map[string]string // of its cluster; empty if it runs alone
}

// Main is the TestMain of a package that uses Process: the test binary is also
// the server that tests kill, which start runs.
func Main(m *testing.M, start func(Node) (Server, error)) {
	text := os.Getenv(serve)
	if text == "" {
		os.Exit(m.Run())
	}
	var node Node
	if err := json.Unmarshal([]byte(text), &node); err != nil {
		panic(err)
	}
	server, err := start(node)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(server.URL())
	go func() {
		for server.Ready(context.Background()) != nil {
			time.Sleep(20 * time.Millisecond)
		}
		fmt.Println("ready")
	}()
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends, however it does
	server.Shutdown()
}

// Process is a server in a process of its own.
type Process struct {
	Node
	URL string // stays the same

	t   testing.TB
	cmd *exec.Cmd
	in  io.Closer // ends the process
	out *bufio.Reader
}

// StartProcess starts one that ends with t.
func StartProcess(t testing.TB) *Process {
	t.Helper()
	p := newProcess(t, Node{Dir: t.TempDir(), Port: FreePort(t)})
	p.Start()
	return p
}

// newProcess returns one that is yet to be started, and ends with t.
func newProcess(t testing.TB, node Node) *Process {
	p := &Process{t: t, Node: node, URL: fmt.Sprintf("nats://127.0.0.1:%d", node.Port)}
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
	p.launch()
	p.awaitStart()
}

func (p *Process) launch() {
	p.t.Helper()
	text, err := json.Marshal(p.Node)
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serve+"="+string(text))
	cmd.Stderr = os.Stderr
	if p.in, err = cmd.StdinPipe(); err != nil { // it ends when this process does
		p.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.cmd, p.out = cmd, bufio.NewReader(out)
}

func (p *Process) awaitStart() {
	p.t.Helper()
	p.URL = p.line()
}

// awaitReady returns when the server is ready for the first time since its start.
func (p *Process) awaitReady() {
	p.t.Helper()
	p.line()
}

func (p *Process) line() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.in.Close()
		err := p.cmd.Wait()
		p.cmd = nil
		p.t.Fatalf("the server process has ended: %v", err)
	}
	return strings.TrimSpace(line)
}

// Kill ends the process with SIGKILL.
func (p *Process) Kill() {
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Errorf("kill the server: %v", err)
	}
	_ = p.cmd.Wait() // it says that the process was killed
	p.cmd = nil
}

// stop ends the process in order.
func (p *Process) stop() {
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("stop the server: %v", err)
	}
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
