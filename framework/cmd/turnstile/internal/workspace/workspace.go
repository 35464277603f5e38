// Package workspace knows the Go workspace that the command line works in: which of its modules are services,
// how to build them, and which of them a changed file concerns.
package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/modfile"
)

// Workspace is a folder with a go.work file.
type Workspace struct {
	Root     string    // absolute path of the folder that holds go.work
	Modules  []Module  // in the order of go.work
	Services []Service // sorted by name
}

// Module is one module that go.work uses.
type Module struct {
	Path string // module path
	Dir  string // absolute path
}

// Service is a module that has a program in cmd/<name> and a package named service.
type Service struct {
	Name string // name of the program
	Dir  string // absolute path of the module
	Main string // import path of the program
}

// Find locates the workspace that dir belongs to and the services in it. Its errors are written for the person at
// the terminal: they say what is wrong and what to do about it.
func Find(ctx context.Context, dir string) (*Workspace, error) {
	file, err := goWork(ctx, dir)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the workspace file: %w", err)
	}
	work, err := modfile.ParseWork(file, text, nil)
	if err != nil {
		return nil, fmt.Errorf("the workspace file is not valid: %w", err)
	}
	// The go command reports folders with symbolic links resolved or not according to where it was started; resolved is one form.
	root, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("find the workspace: %w", err)
	}
	w := &Workspace{Root: root}
	for _, use := range work.Use {
		m, err := module(w.Root, use.Path)
		if err != nil {
			return nil, err
		}
		w.Modules = append(w.Modules, m)
		w.Services = append(w.Services, services(m)...)
	}
	slices.SortFunc(w.Services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(w.Services); i++ {
		if a, b := w.Services[i-1], w.Services[i]; a.Name == b.Name {
			return nil, fmt.Errorf("two services are named %s: %s and %s; rename the folder in cmd/ of one of them", a.Name, a.Main, b.Main)
		}
	}
	if len(w.Services) == 0 {
		return nil, fmt.Errorf("no services in the workspace %s: a service is a module listed in go.work that has cmd/<name>/main.go and a folder service/", w.Root)
	}
	return w, nil
}

// goWork asks the go command which workspace file is in force, so that GOWORK and GOFLAGS mean what they always mean.
func goWork(ctx context.Context, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOWORK")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("the go command is not in PATH: install Go from https://go.dev/dl and try again")
	}
	if err != nil {
		return "", fmt.Errorf("go env GOWORK: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	switch file := strings.TrimSpace(string(out)); file {
	case "":
		return "", fmt.Errorf("%s is not in a Go workspace: there is no go.work in it or in a folder above; change into the workspace and try again", dir)
	case "off":
		return "", errors.New("GOWORK=off turns the workspace off: unset GOWORK and try again")
	default:
		return file, nil
	}
}

func module(root, use string) (Module, error) {
	dir := use
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(root, filepath.FromSlash(use))
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return Module{}, fmt.Errorf("go.work uses %s, which is not a module: %w", use, err)
	}
	path := modfile.ModulePath(text)
	if path == "" {
		return Module{}, fmt.Errorf("%s has no module line", filepath.Join(dir, "go.mod"))
	}
	return Module{Path: path, Dir: dir}, nil
}

func services(m Module) []Service {
	if info, err := os.Stat(filepath.Join(m.Dir, "service")); err != nil || !info.IsDir() {
		return nil
	}
	mains, _ := filepath.Glob(filepath.Join(m.Dir, "cmd", "*", "main.go")) // fails for a malformed pattern only
	var found []Service
	for _, file := range mains {
		name := filepath.Base(filepath.Dir(file))
		found = append(found, Service{Name: name, Dir: m.Dir, Main: m.Path + "/cmd/" + name})
	}
	return found
}

// Names returns the names of the services.
func (w *Workspace) Names() []string {
	names := make([]string, len(w.Services))
	for i, s := range w.Services {
		names[i] = s.Name
	}
	return names
}

// BuildError is a build that the compiler or the linker refused.
type BuildError struct {
	Services []string // names of those that could not be built
	Output   string   // what the go command printed, with paths relative to the workspace
}

func (e *BuildError) Error() string {
	return strings.Join(e.Services, ", ") + " could not be built\n" + e.Output
}

// Build compiles services into the folder bin with one call of the go command, which works on them in parallel and
// relinks only what changed. Programs are built without DWARF tables and symbols, which halves the time of linking;
// stack traces and profiles do not need them. With debug they are kept, for a debugger. When some services fail to
// compile the others are built all the same, and the error is a *BuildError.
func (w *Workspace) Build(ctx context.Context, services []Service, bin string, debug bool) error {
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("create the folder for programs: %w", err)
	}
	args := []string{"build", "-buildvcs=false", "-o", bin + string(filepath.Separator)}
	if !debug {
		args = append(args, "-ldflags=-s -w")
	}
	for _, s := range services {
		args = append(args, s.Main)
	}
	_, stderr, err := w.run(ctx, args...)
	if _, refused := errors.AsType[*exec.ExitError](err); !refused || ctx.Err() != nil {
		return err
	}
	failed := &BuildError{Output: strings.TrimSpace(stderr)}
	if len(services) == 1 {
		failed.Services = []string{services[0].Name}
		return failed
	}
	for _, s := range services { // which ones it was: quick, since what could be built is up to date now
		err := w.Build(ctx, []Service{s}, bin, debug)
		if _, refused := errors.AsType[*BuildError](err); refused {
			failed.Services = append(failed.Services, s.Name)
		} else if err != nil {
			return err
		}
	}
	return failed
}

// run calls the go command in the workspace's root. When ctx ends, the command and what it started are interrupted.
func (w *Workspace) run(ctx context.Context, args ...string) (stdout []byte, stderr string, err error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = w.Root
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt typed at the terminal is for us to handle
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 3 * time.Second
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
		return out.Bytes(), problems.String(), fmt.Errorf("go %s: %w", args[0], err)
	}
	return out.Bytes(), problems.String(), nil
}
