package stan_test

import (
	"bufio"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/event/stan/stanserver"
)

// The test binary is also the server that tests kill: with this variable set
// it serves that directory until its standard input ends.
const serveDir = "STAN_TEST_SERVE_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(serveDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	port, err := strconv.Atoi(os.Getenv("STAN_TEST_SERVE_PORT"))
	if err != nil {
		panic(err)
	}
	server, err := stanserver.Start(stanserver.Options{Dir: dir, Port: port})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(server.URL())
	io.Copy(io.Discard, os.Stdin)
	server.Shutdown()
}

// process is a server in a process of its own.
type process struct {
	t    *testing.T
	dir  string
	port string
	url  string
	cmd  *exec.Cmd
}

func startProcess(t *testing.T) *process {
	t.Helper()
	p := &process{t: t, dir: t.TempDir(), port: "0"}
	p.start()
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
	})
	return p
}

// start returns when clients can connect. The port stays the same.
func (p *process) start() {
	p.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveDir+"="+p.dir, "STAN_TEST_SERVE_PORT="+p.port)
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
	p.cmd, p.url = cmd, strings.TrimSpace(line)
	p.port = portOf(p.t, p.url)
}

// kill ends the process with SIGKILL.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.cmd = nil
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}
