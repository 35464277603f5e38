package kube

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/turnstile-go/turnstile/e2e/internal/cluster"
)

// workload is what has a template of pods.
type workload struct {
	Kind     string
	Metadata meta.ObjectMeta
	Spec     struct {
		Template             core.PodTemplateSpec
		VolumeClaimTemplates []core.PersistentVolumeClaim
	}
}

// TestPodSecurity has the cluster judge the pods of every workload of every overlay and component by the standard
// "restricted", which it enforces where the application is.
func TestPodSecurity(t *testing.T) {
	a := deployed(t)
	pods := a.API.CoreV1().Pods(a.namespace)
	dryRun := meta.CreateOptions{DryRun: []string{meta.DryRunAll}}
	admitted := func(p *core.Pod) error {
		_, err := pods.Create(t.Context(), p, dryRun)
		return err
	}
	if err := admitted(&core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: "careless"}, Spec: core.PodSpec{Containers: []core.Container{{Name: "careless", Image: "careless"}}},
	}); err == nil || !strings.Contains(err.Error(), "restricted") {
		t.Fatalf("a careless pod: %v; want that it is refused, or nothing can be learnt", err)
	}

	infra := filepath.Join(root(), "infra", "k8s")
	components, err := filepath.Glob(filepath.Join(infra, "components", "*", "kustomization.yaml"))
	if err != nil || len(components) == 0 {
		t.Fatalf("no components: %v", err)
	}
	files := map[string]string{
		"overlay dev": "resources: [%s/overlays/dev]\n", "overlay production": "resources: [%s/overlays/production]\n",
	}
	for _, file := range components {
		name := filepath.Base(filepath.Dir(file))
		files["component "+name] = "resources: [%[1]s/overlays/production]\ncomponents: [%[1]s/components/" + name + "]\n"
	}
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			up, err := filepath.Rel(dir, infra)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(fmt.Sprintf(file, up)), 0o644); err != nil {
				t.Fatal(err)
			}
			rendered, err := cluster.Run(t.Context(), dir, "", "kubectl", "kustomize", ".")
			if err != nil {
				t.Fatal(err)
			}
			judged := 0
			for decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(rendered), 4096); ; {
				var w workload
				if err := decoder.Decode(&w); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				if len(w.Spec.Template.Spec.Containers) == 0 {
					continue
				}
				p := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "judged-" + w.Metadata.Name}, Spec: w.Spec.Template.Spec}
				p.Spec.ServiceAccountName = "" // its own may not be there
				for _, claim := range w.Spec.VolumeClaimTemplates {
					p.Spec.Volumes = append(p.Spec.Volumes, core.Volume{Name: claim.Name})
				}
				if err := admitted(p); err != nil {
					t.Errorf("%s %s: %v", w.Kind, w.Metadata.Name, err)
				}
				judged++
			}
			if judged == 0 {
				t.Error("it has no workload")
			}
			t.Logf("%s: the pods of %d workloads are admitted", name, judged)
		})
	}
}
