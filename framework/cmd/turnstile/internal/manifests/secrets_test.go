package manifests

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// secretsOf are those that are made for production with components.
func secretsOf(t *testing.T, root string, services []string, components ...string) (values map[string]map[string]string, unknown []string) {
	t.Helper()
	k8s := filepath.Join(root, "infra", "k8s")
	k := Kustomization{Name: "production", Dir: filepath.Join(k8s, "overlays", "production")}
	for _, c := range components {
		k.Components = append(k.Components, filepath.Join(k8s, "components", c))
	}
	text, unknown, err := Secrets(root, services, k, "shop")
	if err != nil {
		t.Fatal(err)
	}
	values = map[string]map[string]string{}
	for _, document := range strings.Split(string(text), "---\n")[1:] {
		var s corev1.Secret
		if err := yaml.UnmarshalStrict([]byte(document), &s); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if s.Kind != "Secret" || s.Namespace != "shop" {
			t.Errorf("made a %s in the namespace %s", s.Kind, s.Namespace)
		}
		values[s.Name] = s.StringData
	}
	return values, unknown
}

func TestSecretsFit(t *testing.T) {
	t.Parallel()
	b, root := copied(t)
	made, unknown := secretsOf(t, root, b.workspace.Names(), "both-brokers")
	if len(unknown) != 0 {
		t.Errorf("not known: %v", unknown)
	}
	passwords := map[string]string{}
	for _, service := range b.workspace.Names() {
		u, err := url.Parse(made[service+"-database"]["url"])
		if err != nil {
			t.Fatal(err)
		}
		password, _ := u.User.Password()
		if u.User.Username() != service || u.Host != "postgres:5432" || u.Path != "/"+service || password != made["postgres"][service] || len(password) < 20 {
			t.Errorf("%s is to use %s, and the server is given the password %s", service, u, made["postgres"][service])
		}
		passwords[password] = service
	}
	for _, broker := range []string{"nats-streaming", "jetstream"} {
		token := made[broker]["token"]
		if want := "nats://" + token + "@" + broker + ":4222"; len(token) < 20 || made[broker]["url"] != want {
			t.Errorf("%s is at %s, want %s", broker, made[broker]["url"], want)
		}
		passwords[token] = broker
	}
	passwords[made["postgres"]["postgres"]] = "postgres"
	if len(passwords) != len(b.workspace.Names())+3 {
		t.Errorf("some have the same password: %v", passwords)
	}
	if again, _ := secretsOf(t, root, b.workspace.Names()); again["postgres"]["postgres"] == made["postgres"]["postgres"] {
		t.Error("the second call makes the same passwords")
	}

	// With them, nothing is missing any more.
	file := filepath.Join(root, "infra", "k8s", "overlays", "production", "kustomization.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	k := Kustomization{Name: "production", Dir: filepath.Dir(file)}
	secrets, _, err := Secrets(root, b.workspace.Names(), k, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(k.Dir, "secrets.yaml"), secrets, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), "  - ../../base\n", "  - ../../base\n  - secrets.yaml\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	report := check(t, b, root, k)
	for _, p := range report.Problems {
		t.Errorf("with its own Secrets: %s", p)
	}
	if missing := report.Secrets["production"]; missing != nil {
		t.Errorf("still missing: %v", missing)
	}
	if more, unknown, err := Secrets(root, b.workspace.Names(), k, ""); err != nil || len(more) > 0 || unknown != nil {
		t.Errorf("made again: %s %v %v", more, unknown, err)
	}
}

// What the manifests do not tell is not made up.
func TestSecretsOfADatabaseElsewhere(t *testing.T) {
	t.Parallel()
	b, root := copied(t)
	made, unknown := secretsOf(t, root, b.workspace.Names(), "external-postgres")
	var want []string
	for _, service := range b.workspace.Names() {
		want = append(want, service+"-database, key url")
	}
	slices.Sort(unknown)
	if !slices.Equal(unknown, want) || len(made) != 1 || made["nats-streaming"]["url"] == "" {
		t.Errorf("made %v, not known %v", made, unknown)
	}
}

// Nor is what somebody else gives.
func TestSecretsOfAnAccount(t *testing.T) {
	t.Parallel()
	b, root := copied(t)
	made, unknown := secretsOf(t, root, b.workspace.Names(), "stripe")
	if !slices.Equal(unknown, []string{"stripe, key key", "stripe, key webhook-secret"}) || made["stripe"] != nil || made["postgres"] == nil {
		t.Errorf("made %v, not known %v", made, unknown)
	}
}
