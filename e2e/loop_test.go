package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDevelopmentLoop does what a developer does all day: it changes, breaks and mends services while they run.
func TestDevelopmentLoop(t *testing.T) {
	t.Parallel()
	build(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "loop"))); err != nil {
		t.Fatal(err)
	}
	workspace(t, dir, false)
	s := dev(t, dir, nil)

	says := func(name, want string) {
		t.Helper()
		response, err := http.Get(s.url + "/api/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		if string(text) != want {
			t.Errorf("%s says %q, want %q", name, text, want)
		}
	}
	change := func(file, old, text string) {
		t.Helper()
		file = filepath.Join(dir, file)
		before := read(t, file)
		after := strings.ReplaceAll(before, old, text)
		if after == before {
			t.Fatalf("%s has no %q", file, old)
		}
		write(t, file, after)
	}
	says("alpha", "This is alpha.")
	says("beta", "This is beta.")

	t.Run("a second one in the same folder is refused", func(t *testing.T) {
		text, code := run(t, dir, "dev", "--listen", "127.0.0.1:0")
		if code != 1 || !strings.Contains(text, "already: pid ") || !strings.Contains(text, s.url) {
			t.Errorf("exit code %d, want 1 and who is there:\n%s", code, text)
		}
		text, code = run(t, dir, "dev", "--listen", strings.TrimPrefix(s.url, "http://"))
		if code != 1 || !strings.Contains(text, "already: pid ") {
			t.Errorf("on the same port: exit code %d, want 1 and who is there:\n%s", code, text)
		}
	})
	t.Run("a busy port is named", func(t *testing.T) {
		other := t.TempDir()
		if err := os.CopyFS(other, os.DirFS(filepath.Join("testdata", "loop"))); err != nil {
			t.Fatal(err)
		}
		workspace(t, other, false)
		address := strings.TrimPrefix(s.url, "http://")
		_, port, _ := strings.Cut(address, ":")
		text, code := run(t, other, "dev", "--listen", address)
		if code != 1 || !strings.Contains(text, "port "+port+" of 127.0.0.1 is taken by another program") {
			t.Errorf("exit code %d, want 1 and the port:\n%s", code, text)
		}
	})
	t.Run("a change restarts the service it concerns", func(t *testing.T) {
		alpha, beta := s.pid("alpha"), s.pid("beta")
		change("alpha/service/service.go", "This is alpha", "Alpha was changed")
		s.await(t, `restarting alpha\n`)
		s.await(t, `alpha +ready again`)
		says("alpha", "Alpha was changed.")
		if s.pid("alpha") == alpha || s.pid("beta") != beta {
			t.Errorf("alpha was process %d and is %d, beta was %d and is %d; want another alpha and the same beta", alpha, s.pid("alpha"), beta, s.pid("beta"))
		}
	})
	t.Run("what does not compile leaves the old program running", func(t *testing.T) {
		alpha := s.pid("alpha")
		change("alpha/service/service.go", "Alpha was changed", `Alpha is "broken`)
		s.await(t, `alpha does not compile\n`)
		s.await(t, `alpha/service/service\.go:\d+`)
		s.await(t, `what ran before goes on running\n`)
		says("alpha", "Alpha was changed.")
		if s.pid("alpha") != alpha {
			t.Error("alpha was restarted")
		}
		change("alpha/service/service.go", `Alpha is "broken`, "Alpha is mended")
		s.await(t, `everything compiles again\n`)
		s.await(t, `alpha +ready again`)
		says("alpha", "Alpha is mended.")
	})
	t.Run("a change of what is shared restarts all that share it", func(t *testing.T) {
		change("page/page.go", `ending = "."`, `ending = "!"`)
		s.await(t, `restarting alpha, beta\n`)
		s.await(t, `ready again`)
		s.await(t, `ready again`)
		says("alpha", "Alpha is mended!")
		says("beta", "This is beta!")
	})
	t.Run("a setting in .env restarts the service that takes it", func(t *testing.T) {
		alpha := s.pid("alpha")
		write(t, filepath.Join(dir, ".env"), "ALPHA_DRAIN_TIMEOUT=3s\n")
		s.await(t, `\.env changed\n`)
		s.await(t, `alpha +ready again`)
		if s.pid("alpha") == alpha {
			t.Error("alpha is the process it was")
		}
	})
	s.stop(t)
	s.await(t, `stopped; state is kept`)
}
