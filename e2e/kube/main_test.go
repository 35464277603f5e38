package kube

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/cluster"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

var (
	keep      = flag.Bool("keep", false, "leave in the cluster what was deployed")
	namespace = flag.String("namespace", "", "use what was kept in this namespace, and leave it there")
	rounds    = flag.Int("rounds", 1, "how often to do what can be done again and again")
	full      = flag.Bool("full", false, "do everything to everybody, instead of some of it")
	people    = flag.Int("people", 4, "who use the application at once while it is disturbed")
)

// patience is how long a test waits for what must happen.
const patience = journey.Patience

// services are the programs of the application.
var services = []string{"auth", "orders", "payments", "tickets"}

// needed are the variables without which nothing can be deployed.
var needed = []string{"KUBECONFIG", "KO_DOCKER_REPO"}

// undo removes what tests leave for each other, at the end.
var undo struct {
	sync.Mutex
	steps []func()
}

func TestMain(m *testing.M) {
	flag.Parse()
	for _, name := range needed {
		if os.Getenv(name) == "" {
			fmt.Fprintf(os.Stderr, "e2e/kube: tests in a cluster are skipped, for %s is not set; they need %s\n", name, strings.Join(needed, " and "))
			break
		}
	}
	done := make(chan int, 1)
	go func() { done <- m.Run() }()
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := 1
	select {
	case code = <-done:
	case <-interrupted.Done():
		stop() // the second time it ends at once
	}
	undo.Lock()
	for i := len(undo.steps) - 1; i >= 0; i-- {
		undo.steps[i]()
	}
	os.Exit(code)
}

// Tests that are skipped look like tests that pass, unless somebody says so.
func TestSaysWhatIsSkipped(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "KUBECONFIG=/none", "KO_DOCKER_REPO=")
	out, err := cmd.CombinedOutput()
	if want := "skipped, for KO_DOCKER_REPO is not set; they need KUBECONFIG and KO_DOCKER_REPO"; err != nil || !strings.Contains(string(out), want) {
		t.Errorf("said %s, %v; want %s", out, err, want)
	}
}

func atEnd(f func()) {
	undo.Lock()
	defer undo.Unlock()
	undo.steps = append(undo.steps, f)
}

// connect returns the cluster, and skips the test if there is none to be used.
func connect(t *testing.T) *cluster.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and deploys programs: not with -short")
	}
	c, err := cluster.Connect(t.Context())
	switch {
	case errors.Is(err, cluster.ErrNone):
		t.Skip(err)
	case err != nil && os.Getenv("CI") != "":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	case os.Getenv("KO_DOCKER_REPO") == "":
		t.Skip("KO_DOCKER_REPO is not set: set it to where images can be pushed to, and be pulled from by the nodes of the cluster")
	}
	return c
}

// root returns the folder of the repository. Tests run in the folder of their package.
func root() string {
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		panic(err) // the current folder is gone
	}
	return dir
}

// images are built once.
var images struct {
	once  sync.Once
	names map[string]string // repository@digest by short name
	err   error
}

// build builds the images of the services and the command line, pushes them, and returns their names.
func build(t *testing.T) map[string]string {
	t.Helper()
	images.once.Do(func() {
		images.names, images.err = buildImages(context.Background(), programs()) // for all tests
	})
	if images.err != nil {
		t.Fatal(images.err)
	}
	return images.names
}

// programs are the packages of all programs that are deployed.
func programs() []string {
	packages := []string{"./framework/cmd/turnstile"}
	for _, name := range services {
		packages = append(packages, "./services/"+name+"/cmd/"+name)
	}
	return packages
}

// buildImages builds images of programs and pushes them. It returns their names by those of the programs.
func buildImages(ctx context.Context, packages []string, flags ...string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	command := slices.Concat([]string{"ko", "build", "--base-import-paths", "--sbom=none"}, flags, packages)
	out, err := cluster.Run(ctx, root(), "", command...)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for line := range strings.Lines(out) {
		image, digest, ok := strings.Cut(strings.TrimSpace(line), "@")
		if !ok {
			return nil, fmt.Errorf("ko build says %q: that is no image", line)
		}
		names[image[strings.LastIndex(image, "/")+1:]] = image + "@" + digest
	}
	return names, nil
}
