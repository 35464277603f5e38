package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestChaos lets the chaos program do harm for a while, and then stops it as people do.
func TestChaos(t *testing.T) {
	t.Parallel()
	build(t) // so that little is left to build for the program
	program := filepath.Join(t.TempDir(), "chaos")
	if err := compile(program, "./e2e/cmd/chaos"); err != nil {
		t.Fatal(err)
	}
	var last strings.Builder
	said := &output{changed: make(chan struct{})}
	cmd := exec.Command(program, "-duration", "1h", "-broker", "stan", "-db", "sqlite")
	cmd.Env, cmd.Stdout, cmd.Stderr = environ(), &last, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- cmd.Wait()
		said.end()
	}()
	defer cmd.Process.Kill()
	if _, err := said.await(regexp.MustCompile(` faults [2-9]\d `), patience); err != nil {
		t.Fatalf("%v:\n%s", err, said)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		ok := regexp.MustCompile(`\Achaos: ok faults=[2-9]\d commands=\d+ events=[1-9]\d* lost=0 duplicated=0 misordered=0 doublesold=0 unsettled=0\n\z`)
		if err != nil || !ok.MatchString(last.String()) {
			t.Errorf("the last line is %q (%v), want that all is ok:\n%s", last.String(), err, said)
		}
	case <-time.After(3 * patience):
		t.Errorf("it does not end:\n%s", said)
	}
}
