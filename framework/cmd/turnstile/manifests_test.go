package main

import (
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/manifests"
)

func TestManifestsCommand(t *testing.T) {
	t.Setenv("GOWORK", "")
	for args, want := range map[string]string{
		"chek":          "there is no command 'manifests chek'; 'turnstile manifests --help' lists those that there are",
		"check -o yaml": "-o yaml: the only other form is json",
		"check nowhere": "find the kustomization: ",
		"secrets ../../../infra/k8s/overlays/dev": "there is nothing to make: all Secrets are in the kustomization",
	} {
		_, err := execute(t.Context(), manifestsCommand(), strings.NewReader(""), strings.Fields(args))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("manifests %s: %v, want %s", args, err, want)
		}
	}
	out, err := execute(t.Context(), manifestsCommand(), strings.NewReader(""), []string{"secrets", "--namespace", "shop"})
	if err != nil || !strings.Contains(out, "name: orders-database\n  namespace: shop\n") || !strings.Contains(out, "@postgres:5432/orders") {
		t.Errorf("manifests secrets: %v\n%s", err, out)
	}
}

func TestReportText(t *testing.T) {
	r := &manifests.Report{
		Kustomizations: []string{"dev", "production", "production with jetstream"}, Services: 1, Objects: 57,
		Secrets: map[string][]manifests.Reference{"production": {{Name: "a"}, {Name: "b"}}, "production with jetstream": {{Name: "a"}, {Name: "b"}}},
	}
	want := "production, production with jetstream: expects the Secrets a, b\nmanifests: ok (3 kustomizations, 1 service, 57 objects)\n"
	if got := reportText(r); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	r.Problems = []manifests.Problem{
		{File: "base/orders.yaml:7", Object: "Role/orders", Detail: "it may too much", Fix: "take it out", In: []string{"dev"}},
		{File: "base/x.yaml", Object: "Deployment/x", Detail: "it is not known", Fix: "leave it out", In: r.Kustomizations},
	}
	want = "base/orders.yaml:7: Role/orders: it may too much; take it out (dev)\nbase/x.yaml: Deployment/x: it is not known; leave it out\n"
	if got := reportText(r); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
