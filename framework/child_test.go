package framework_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework"
)

// childVariable makes the test binary a service: signals and exit codes take a process of their own.
const childVariable = "FRAMEWORK_TEST_CHILD"

type childConfig struct {
	Mode string `env:"FRAMEWORK_TEST_CHILD,required" doc:"what the child does"`
	Need string `env:"CHILD_NEED" envDefault:"nothing"`
}

func childMain() {
	framework.Main("child", func(s *framework.Service, c childConfig) error {
		s.Add("http", &server{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" { // answers when the drain has begun to stop the parts
				w.(http.Flusher).Flush()
				<-time.After(50 * time.Millisecond)
			}
			fmt.Fprint(w, "served")
		})})
		switch c.Mode {
		case "fail":
			s.Add("bad", bare(func(context.Context) error { return errors.New("disk is full") }))
		case "build":
			return errors.New("no such provider")
		}
		return nil
	})
}

type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	admin string
	http  string
	out   *bufio.Reader
	err   strings.Builder
}

func startChild(t *testing.T, mode string, environ ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append([]string{childVariable + "=" + mode, "ADMIN_ADDR=127.0.0.1:0", "LOG_FORMAT=json"}, environ...)
	c.cmd.Stderr = &c.err
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(stdout)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill() }) // in case it still runs
	return c
}

// await reads the child's log up to the message.
func (c *child) await(message string) map[string]any {
	c.t.Helper()
	for {
		line, err := c.out.ReadBytes('\n')
		if err != nil {
			c.t.Fatalf("child ended before it logged %q: %v\n%s", message, err, c.err.String())
		}
		var entry map[string]any
		if err := json.Unmarshal(line, &entry); err != nil {
			c.t.Fatalf("child logged %s", line)
		}
		if entry["msg"] == message {
			return entry
		}
	}
}

func (c *child) ready() {
	c.t.Helper()
	entry := c.await("service ready")
	c.admin, c.http = "http://"+entry["admin"].(string), "http://"+entry["http"].(string)
}

func (c *child) signal(s os.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// exit waits for the end of the child and returns its exit code.
func (c *child) exit() int {
	c.t.Helper()
	_, _ = io.Copy(io.Discard, c.out)
	var failed *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &failed) {
		c.t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode()
}

func TestFirstSignalDrainsWhileServingAndSecondExits(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			c := startChild(t, "serve", "DRAIN_DELAY=1h")
			c.ready()
			if p := ask(t, c.admin+"/readyz"); p.Code != 200 {
				t.Errorf("/readyz answers %+v when ready", p)
			}

			c.signal(signal)
			p := until(t, c.admin+"/readyz", func(p probe) bool { return p.Code != 200 })
			if p.Code != 503 || p.Status != "draining" {
				t.Errorf("/readyz answers %+v when draining", p)
			}
			if code, body := get(t, c.http); code != 200 || body != "served" {
				t.Errorf("answers %d %q when draining", code, body)
			}
			if code, _ := get(t, c.admin+"/livez"); code != 200 {
				t.Errorf("/livez answers %d when draining", code)
			}

			c.signal(signal)
			if code := c.exit(); code != 1 {
				t.Errorf("exit code %d after a second signal, want 1", code)
			}
		})
	}
}

func TestDrainFinishesWhatIsBegun(t *testing.T) {
	t.Parallel()
	c := startChild(t, "serve", "DRAIN_DELAY=1ms")
	c.ready()
	r, err := client.Get(c.http + "/slow") // returns when the headers are there
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	c.signal(syscall.SIGTERM)
	if body, err := io.ReadAll(r.Body); err != nil || string(body) != "served" {
		t.Errorf("a request in flight got %q, %v", body, err)
	}
	c.await("service stopped")
	if code := c.exit(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if c.err.Len() != 0 {
		t.Errorf("standard error: %s", c.err.String())
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mode    string
		environ string
		code    int
		stderr  string
	}{
		"a part fails":        {"fail", "", 1, ""}, // said in the log
		"build fails":         {"build", "", 1, "child: build child: no such provider\n"},
		"wrong configuration": {"serve", "DRAIN_DELAY=5", 2, "child: configuration is not usable:\n  DRAIN_DELAY is \"5\", want a duration such as 500ms, 30s or 5m\n`child describe` lists all variables\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startChild(t, c.mode, c.environ)
			if code := p.exit(); code != c.code || p.err.String() != c.stderr {
				t.Errorf("exit code %d, standard error:\n%s\nwant %d and:\n%s", code, p.err.String(), c.code, c.stderr)
			}
		})
	}
}
