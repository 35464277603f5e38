package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/turnstile-go/turnstile/e2e/internal/cluster"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// checkout copies what is tracked in the repository, as it is now, into a folder, with everything in a namespace of its
// own.
func checkout(t *testing.T) (dir, namespace string) {
	t.Helper()
	files, err := cluster.Run(t.Context(), root(), "", "git", "ls-files")
	if err != nil {
		t.Skip("this is no checkout of the repository: ", err)
	}
	dir, namespace = t.TempDir(), "turnstile-e2e-"+strings.ToLower(rand.Text()[:6])
	for file := range strings.Lines(files) {
		file = strings.TrimSpace(file)
		text, err := os.ReadFile(filepath.Join(root(), file))
		if os.IsNotExist(err) {
			continue // about to be removed
		}
		if err != nil {
			t.Fatal(err)
		}
		if file == "skaffold.yaml" || strings.HasPrefix(file, "infra/k8s/") && filepath.Base(file) == "kustomization.yaml" {
			text = bytes.ReplaceAll(text, []byte("namespace: turnstile\n"), []byte("namespace: "+namespace+"\n"))
		}
		mode := os.FileMode(0o644)
		if info, err := os.Stat(filepath.Join(root(), file)); err == nil {
			mode = info.Mode().Perm()
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir, namespace
}

// forSkaffold is the application in a checkout, which Skaffold is about to deploy.
func forSkaffold(t *testing.T) *application {
	t.Helper()
	c := connect(t)
	if os.Getenv("SKAFFOLD_DEFAULT_REPO") == "" {
		t.Setenv("SKAFFOLD_DEFAULT_REPO", os.Getenv("KO_DOCKER_REPO"))
	}
	dir, namespace := checkout(t)
	return &application{Cluster: c, namespace: namespace, dir: dir}
}

// TestSkaffold develops with `skaffold dev` from a clean checkout: the application becomes ready, an edit of a service
// becomes live and has nothing else rebuilt, and in the end nothing is left in the cluster.
func TestSkaffold(t *testing.T) {
	a := forSkaffold(t)

	var out log
	cmd := exec.Command("skaffold", "dev", "--auto-build", "--auto-deploy", "--auto-sync", "--tail=false", "--port-forward=off",
		"--watch-poll-interval=100")
	cmd.Dir, cmd.Stdout, cmd.Stderr = a.dir, &out, &out
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop := sync.OnceValue(func() error {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			return fmt.Errorf("it did not end within %v", patience)
		}
	})
	t.Cleanup(func() {
		_ = stop() // checked below, if it comes to that
		if t.Failed() {
			t.Logf("skaffold dev:\n%s", out.String())
		}
		a.deleteNamespace()
	})
	out.await(t, "Watching for changes", 15*time.Minute, ended)
	a.awaitReady(t)
	gateway := a.pods(t, "gateway")[0].Name
	address, close, err := a.Forward(a.namespace, gateway, 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer close()
	a.ingress = address
	journey.Purchase(t, a.site())
	t.Logf("from a clean checkout until a ticket was sold: %v", time.Since(begin).Round(100*time.Millisecond))

	var took []time.Duration
	before := a.deployedImages(t)
	for round := range *rounds {
		mark := fmt.Sprintf("Offer a ticket, edited %d", round+1)
		a.edit(t, filepath.Join("services", "tickets", "internal", "server", "http.go"), `Summary: "`, mark)
		begin = time.Now()
		journey.Eventually(t, "the edit is live", func() error {
			if text := a.get(t, "/api/tickets/openapi.json"); !strings.Contains(text, mark) {
				return errNotYet
			}
			return nil
		})
		took = append(took, time.Since(begin))
		a.awaitReady(t)
	}
	middle, most := median(took)
	t.Logf("edits of a service were live after %v, at most %v", middle, most)
	for name, image := range a.deployedImages(t) {
		if changed := image != before[name]; changed != (name == "tickets") {
			t.Errorf("after edits of tickets the image of %s has changed: %t", name, changed)
		}
	}

	if err := stop(); err != nil {
		t.Errorf("skaffold dev, interrupted: %v", err)
	}
	a.awaitGone(t)
}

// TestSkaffoldProduction deploys from a commit with `skaffold run -p production`, and removes it with `skaffold delete`. The
// images are of that commit, have a bill of materials, and do not run as root.
func TestSkaffoldProduction(t *testing.T) {
	a := forSkaffold(t)
	defer a.deleteNamespace()
	run := func(stdin string, command ...string) string {
		t.Helper()
		out, err := cluster.Run(t.Context(), a.dir, stdin, command...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	run("", "git", "init", "-q")
	run("", "git", "add", ".")
	run("", "git", "-c", "user.name=Test", "-c", "user.email=test@example.com", "commit", "-q", "-m", "What is deployed")
	commit := strings.TrimSpace(run("", "git", "rev-parse", "--short", "HEAD"))

	run("", "kubectl", "create", "namespace", a.namespace)
	secrets := run("", "go", "run", "./framework/cmd/turnstile", "manifests", "secrets", "infra/k8s/overlays/production")
	run(secrets, "kubectl", "--namespace", a.namespace, "create", "-f", "-")
	begin := time.Now()
	run("", "skaffold", "run", "-p", "production")
	a.awaitReady(t)
	t.Logf("ready %v after `skaffold run` began", time.Since(begin).Round(100*time.Millisecond))
	a.findIngress(t)
	journey.Purchase(t, journey.Site{URL: "http://" + a.host(), Address: a.ingress})

	for deployment, image := range a.deployedImages(t) {
		if !strings.Contains(image, ":"+commit) {
			t.Errorf("%s runs %s, which does not name the commit %s", deployment, image, commit)
		}
		checkImage(t, image)
	}
	run("", "skaffold", "delete", "-p", "production")
	a.awaitGone(t)
}

// checkImage wants an image to have a user who is not root, and a bill of materials beside it that lists its modules.
func checkImage(t *testing.T, image string) {
	t.Helper()
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	auth := remote.WithAuthFromKeychain(authn.DefaultKeychain)
	found, err := remote.Image(ref, remote.WithContext(t.Context()), auth)
	if err != nil {
		t.Fatal(err)
	}
	config, err := found.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if user := config.Config.User; user == "" || user == "0" || user == "root" {
		t.Errorf("%s runs as user %q", image, user)
	}
	digest, err := found.Digest()
	if err != nil {
		t.Fatal(err)
	}
	// The name is cosign's convention for what belongs to an image.
	bill, err := remote.Image(ref.Context().Tag("sha256-"+digest.Hex+".sbom"), remote.WithContext(t.Context()), auth)
	if err != nil {
		t.Errorf("%s has no bill of materials: %v", image, err)
		return
	}
	layers, err := bill.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("the bill of materials of %s has %d parts (%v)", image, len(layers), err)
	}
	text, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	var spdx struct {
		Version  string `json:"spdxVersion"`
		Packages []struct{ Name string }
	}
	if err := json.NewDecoder(text).Decode(&spdx); err != nil || !strings.HasPrefix(spdx.Version, "SPDX-") || len(spdx.Packages) < 10 {
		t.Errorf("the bill of materials of %s is no SPDX, or lists next to nothing: version %q, %d packages (%v)", image, spdx.Version, len(spdx.Packages), err)
	}
}

// TestReproducible builds the same sources in two folders: the images are the same.
func TestReproducible(t *testing.T) {
	connect(t)
	var digests []string
	for range 2 {
		dir, _ := checkout(t)
		out, err := cluster.Run(t.Context(), dir, "", "ko", "build", "--base-import-paths", "--sbom=none", "./services/tickets/cmd/tickets")
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, strings.TrimSpace(out))
	}
	if digests[0] != digests[1] {
		t.Errorf("the same sources have become %s and %s", digests[0], digests[1])
	}
}

// deleteNamespace removes whatever is left, if anything is.
func (a *application) deleteNamespace() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = a.API.CoreV1().Namespaces().Delete(ctx, a.namespace, meta.DeleteOptions{}) // mostly gone
}

// awaitGone waits until nothing is left.
func (a *application) awaitGone(t *testing.T) {
	t.Helper()
	journey.Eventually(t, "nothing is left", func() error {
		if _, err := a.API.CoreV1().Namespaces().Get(t.Context(), a.namespace, meta.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the namespace is there (%w)", err)
		}
		return nil
	})
}

// edit changes what follows a text in a file, up to the next quote.
func (a *application) edit(t *testing.T, file, after, to string) {
	t.Helper()
	path := filepath.Join(a.dir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), after)
	_, tail, more := strings.Cut(rest, `"`)
	if !ok || !more {
		t.Fatalf("%s has no %s", file, after)
	}
	if err := os.WriteFile(path, []byte(head+after+to+`"`+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// get returns what is at a path, or nothing if there is no answer.
func (a *application) get(t *testing.T, path string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.ingress+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body) // it is asked again
	return string(text)
}

// deployedImages are those of the Deployments, by name.
func (a *application) deployedImages(t *testing.T) map[string]string {
	t.Helper()
	list, err := a.API.AppsV1().Deployments(a.namespace).List(t.Context(), meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, d := range list.Items {
		all[d.Name] = d.Spec.Template.Spec.Containers[0].Image
	}
	return all
}

// log keeps what a program writes.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// await waits until the program has written something. It fails the test if the program ends before.
func (l *log) await(t *testing.T, what string, limit time.Duration, ended chan error) {
	t.Helper()
	deadline := time.After(limit)
	for !strings.Contains(l.String(), what) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("it ended without writing %q: %v", what, err)
		case <-deadline:
			t.Fatalf("it did not write %q within %v", what, limit)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
