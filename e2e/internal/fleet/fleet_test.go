package fleet

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/turnstile-go/turnstile/e2e/internal/process"
)

func TestPanics(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := &Fleet{}
	for name, log := range map[string]string{
		"orders-1":  "{\"msg\":\"panic: no\"}\npanic: yes\n\ngoroutine 1 [running]:\n",
		"tickets-1": "fatal error: all goroutines are asleep\nWARNING: DATA RACE\n",
		"auth-1":    "{}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".log"), []byte(log), 0o644); err != nil {
			t.Fatal(err)
		}
		f.Services = append(f.Services, &Service{Program: &process.Program{Name: name, Dir: dir}})
	}
	lines, err := f.Panics()
	slices.Sort(lines)
	want := []string{"orders-1.log: panic: yes", "tickets-1.log: WARNING: DATA RACE", "tickets-1.log: fatal error: all goroutines are asleep"}
	if err != nil || !slices.Equal(lines, want) {
		t.Errorf("found %q, %v; want %q", lines, err, want)
	}
}
