package workspace_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// Two services: both import lib, only beta imports extra; alpha embeds SQL.
var files = map[string]string{
	"go.work":                     "go 1.26\n\nuse (\n\t./lib\n\t./alpha\n\t./beta\n\t./tool\n)\n",
	"lib/go.mod":                  "module example.com/lib\n\ngo 1.26\n",
	"lib/lib.go":                  "package lib\n\nfunc Hello() string { return \"hello\" }\n",
	"lib/extra/extra.go":          "package extra\n\nconst X = 1\n",
	"lib/unused/unused.go":        "package unused\n",
	"alpha/go.mod":                "module example.com/alpha\n\ngo 1.26\n",
	"alpha/service/service.go":    "package service\n\nimport \"embed\"\n\n//go:embed sql/*.sql all:assets\nvar SQL embed.FS\n",
	"alpha/service/sql/1.sql":     "select 1;\n",
	"alpha/service/assets/a/b.js": "1\n",
	"alpha/cmd/alpha/main.go":     "package main\n\nimport (\n\t\"example.com/alpha/service\"\n\t\"example.com/lib\"\n)\n\nvar _ = service.SQL\n\nfunc main() { println(lib.Hello()) }\n",
	"beta/go.mod":                 "module example.com/beta\n\ngo 1.26\n",
	"beta/service/service.go":     "package service\n\nimport \"example.com/lib/extra\"\n\nconst Y = extra.X\n",
	"beta/cmd/beta/main.go":       "package main\n\nimport (\n\t\"example.com/beta/service\"\n\t\"example.com/lib\"\n)\n\nfunc main() { println(lib.Hello(), service.Y) }\n",
	"tool/go.mod":                 "module example.com/tool\n\ngo 1.26\n",
	"tool/cmd/tool/main.go":       "package main\n\nfunc main() {}\n", // no folder service: not a service
}

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// sample makes the workspace in a temporary folder.
func sample(t *testing.T) *workspace.Workspace {
	t.Helper()
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOWORK", "")
	root := t.TempDir()
	write(t, root, files)
	w, err := workspace.Find(t.Context(), filepath.Join(root, "alpha", "cmd"))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestFind(t *testing.T) {
	w := sample(t)
	if got := w.Names(); !slices.Equal(got, []string{"alpha", "beta"}) {
		t.Errorf("services = %v, want alpha and beta", got)
	}
	if len(w.Modules) != 4 {
		t.Errorf("modules = %v, want four", w.Modules)
	}
	if got := w.Services[0].Main; got != "example.com/alpha/cmd/alpha" {
		t.Errorf("program of alpha = %s", got)
	}
}

func TestFindSaysWhatToDo(t *testing.T) {
	t.Setenv("GOWORK", "")
	for name, test := range map[string]struct {
		files map[string]string
		path  string
		want  string
	}{
		"no workspace":  {map[string]string{"go.mod": "module x\n"}, os.Getenv("PATH"), "not in a Go workspace"},
		"no services":   {map[string]string{"go.work": "go 1.26\n\nuse ./a\n", "a/go.mod": "module a\n\ngo 1.26\n"}, os.Getenv("PATH"), "no services in the workspace"},
		"no module":     {map[string]string{"go.work": "go 1.26\n\nuse ./gone\n"}, os.Getenv("PATH"), "./gone, which is not a module"},
		"no go command": {nil, "", "install Go"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write(t, root, test.files)
			t.Setenv("PATH", test.path)
			if _, err := workspace.Find(t.Context(), root); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Find = %v, want an error that contains %q", err, test.want)
			}
		})
	}
}

func TestAffected(t *testing.T) {
	w := sample(t)
	g, err := w.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"lib/lib.go":                    "alpha beta",
		"lib/new.go":                    "alpha beta",
		"lib/lib_test.go":               "",
		"lib/README.md":                 "",
		"lib/extra/extra.go":            "beta",
		"lib/unused/unused.go":          "",
		"lib/go.mod":                    "alpha beta",
		"alpha/service/service.go":      "alpha",
		"alpha/service/sql/1.sql":       "alpha",
		"alpha/service/sql/2.sql":       "alpha",
		"alpha/service/sql/2.txt":       "",
		"alpha/service/assets/a/new.js": "alpha",
		"alpha/cmd/alpha/main.go":       "alpha",
		"alpha/go.mod":                  "alpha",
		"beta/go.sum":                   "beta",
		"tool/cmd/tool/main.go":         "",
		"go.work":                       "alpha beta",
		"elsewhere/x.go":                "",
	} {
		if got := strings.Join(g.Affected(filepath.Join(w.Root, filepath.FromSlash(file))), " "); got != want {
			t.Errorf("a change of %s affects %q, want %q", file, got, want)
		}
	}
}

func TestGraphOfCodeThatDoesNotCompile(t *testing.T) {
	w := sample(t)
	write(t, w.Root, map[string]string{"lib/lib.go": "package lib\n\nfunc Hello() string { return }\n"})
	g, err := w.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Affected(filepath.Join(w.Root, "lib", "lib.go")); len(got) != 2 {
		t.Errorf("affected = %v, want both", got)
	}
}

func TestBuild(t *testing.T) {
	w := sample(t)
	bin := filepath.Join(w.Root, ".turnstile", "bin")
	if err := w.Build(t.Context(), w.Services, bin, false); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(bin, "beta")).CombinedOutput(); err != nil || string(out) != "hello 1\n" {
		t.Errorf("beta = %q, %v", out, err)
	}

	t.Run("one does not compile", func(t *testing.T) {
		write(t, w.Root, map[string]string{
			"beta/service/service.go": "package service\n\nconst Y int = \"one\"\n",
			"lib/lib.go":              "package lib\n\nfunc Hello() string { return \"good day\" }\n",
		})
		err := w.Build(t.Context(), w.Services, bin, false)
		failed, ok := errors.AsType[*workspace.BuildError](err)
		if !ok {
			t.Fatalf("Build = %v, want a *BuildError", err)
		}
		if !slices.Equal(failed.Services, []string{"beta"}) {
			t.Errorf("failed = %v, want beta only", failed.Services)
		}
		if !strings.Contains(failed.Output, "beta/service/service.go:3:") {
			t.Errorf("output does not say where, relative to the root:\n%s", failed.Output)
		}
		if out, err := exec.Command(filepath.Join(bin, "alpha")).CombinedOutput(); err != nil || string(out) != "good day\n" {
			t.Errorf("alpha was not built: %q, %v", out, err)
		}
		if out, err := exec.Command(filepath.Join(bin, "beta")).CombinedOutput(); err != nil || string(out) != "hello 1\n" {
			t.Errorf("the old beta is gone: %q, %v", out, err)
		}
	})

	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.Build(ctx, w.Services, bin, false); !errors.Is(err, context.Canceled) {
			t.Errorf("Build = %v, want %v", err, context.Canceled)
		}
	})
}

func TestWatch(t *testing.T) {
	w := sample(t)
	watcher, err := w.Watch()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- watcher.Run(ctx) }()

	// Each step writes files of which some are none of our business; the last one written always is.
	for _, step := range []struct{ ignored, reported []string }{
		{[]string{"lib/.lib.go.swp", "lib/lib.go~", "lib/4913", "lib/lib_test.go", ".git/index", "lib/testdata/x.go", ".turnstile/data/x.db"}, []string{"lib/lib.go"}},
		{nil, []string{"alpha/service/sql/2.sql", "beta/service/service.go"}},
		{nil, []string{"lib/new/deep/new.go"}}, // folders that were not there
		{nil, []string{"lib/new/deep/other.go"}},
		{nil, []string{"go.work", ".env"}},
	} {
		text := map[string]string{}
		for _, name := range step.ignored {
			text[name] = "x"
		}
		write(t, w.Root, text)
		want := map[string]bool{}
		for _, name := range step.reported {
			write(t, w.Root, map[string]string{name: "package x"})
			want[name] = true
		}
		for len(want) > 0 {
			for _, file := range <-watcher.Changes() {
				name, err := filepath.Rel(w.Root, file)
				if err != nil {
					t.Fatal(err)
				}
				if slices.Contains(step.ignored, filepath.ToSlash(name)) {
					t.Errorf("%s was reported", name)
				}
				delete(want, filepath.ToSlash(name))
			}
		}
	}

	if err := os.Remove(filepath.Join(w.Root, "lib", "extra", "extra.go")); err != nil {
		t.Fatal(err)
	}
	if got := <-watcher.Changes(); !slices.Contains(got, filepath.Join(w.Root, "lib", "extra", "extra.go")) {
		t.Errorf("a removal was reported as %v", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
	if _, ok := <-watcher.Changes(); ok {
		t.Error("Changes is not closed after Run")
	}
}
