package e2e

import (
	"regexp"
	"testing"
)

// TestDemo runs what newcomers are told to run first.
func TestDemo(t *testing.T) {
	t.Parallel()
	build(t)
	dir := t.TempDir()
	workspace(t, dir, true)
	text, code := run(t, dir, "demo")
	last := regexp.MustCompile(`(?m)^demo: ok orders=6 events=\d+ lost=0 duplicated=0 misordered=0 p50=\S+ p99=\S+\n\z`)
	if code != 0 || !last.MatchString(text) {
		t.Errorf("exit code %d, and not ok:\n%s", code, text)
	}
	for _, want := range []string{`SIGKILL broker`, `broker is back after`, `order\.completed`, `order\.cancelled`} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the demo does not show %q:\n%s", want, text)
		}
	}
}
