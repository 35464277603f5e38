package manifests

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// Secrets makes the Secrets that pods of a kustomization name and that it does not contain, as YAML, with random values.
// What depends on another value is made of it: a service's DATABASE_URL has the password that the database server is
// given under the service's name, and the URL of a broker the token that its servers are given. unknown are those of
// which the manifests do not tell what they have to be, such as the URL of a database elsewhere or the key of an account:
// they are left out.
// namespace, if it is not empty, is put in the place of the kustomization's own.
func Secrets(root string, services []string, k Kustomization, namespace string) (text []byte, unknown []string, err error) {
	rendered, err := render(root, k)
	if err != nil {
		return nil, nil, fmt.Errorf("render %s: %w", k.Name, err)
	}
	c := &checker{options: Options{Root: root}, objects: rendered}
	for _, name := range services {
		c.options.Services = append(c.options.Services, Service{Description: workspace.Description{Name: name}})
	}
	c.readWorkloads()
	for _, w := range c.workloads {
		c.readEnvironments(w)
	}
	made := map[string]map[string]string{} // values by Secret and key
	set := func(u use, value string) {
		if made[u.secret] == nil {
			made[u.secret] = map[string]string{}
		}
		made[u.secret][u.key] = value
	}
	leave := func(u use) {
		if name := u.secret + ", key " + u.key; !slices.Contains(unknown, name) {
			unknown = append(unknown, name)
		}
	}
	var urls []use
	for _, u := range c.uses {
		if o, _ := named[corev1.Secret](c.objects, u.secret); o != nil || made[u.secret][u.key] != "" {
			continue
		}
		switch {
		case u.variable == databaseVariable || slices.Contains(slices.Collect(maps.Values(brokerVariables)), u.variable):
			urls = append(urls, u)
		case u.workload.service != nil: // somebody else gives it, as the key of an account
			leave(u)
		default:
			set(u, rand.Text())
		}
	}
	for _, u := range urls {
		value := c.urlOf(u, made)
		if value == "" {
			leave(u)
			continue
		}
		set(u, value)
	}
	var out bytes.Buffer
	for _, missing := range c.missingSecrets() {
		values := made[missing.Name]
		if len(values) == 0 {
			continue
		}
		secret := corev1.Secret{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Name: missing.Name, Namespace: namespace},
			Type:       corev1.SecretTypeOpaque,
			StringData: values,
		}
		if i := slices.IndexFunc(c.uses, func(u use) bool { return u.secret == missing.Name }); namespace == "" {
			secret.Namespace = c.uses[i].workload.namespace
		}
		text, err := yaml.Marshal(secret)
		if err != nil {
			return nil, nil, fmt.Errorf("write the Secret %s: %w", missing.Name, err)
		}
		fmt.Fprintf(&out, "---\n%s", text)
	}
	return out.Bytes(), unknown, nil
}

// urlOf makes the URL that a service takes, from what was made for the server that it leads to. It is empty if that is
// not in the manifests, or has nothing for the service.
func (c *checker) urlOf(u use, made map[string]map[string]string) string {
	w := u.workload
	if w.service == nil {
		return ""
	}
	for _, f := range c.behindSecret(w, variable{name: u.variable, secret: u.secret}) {
		if f.to == nil {
			continue
		}
		host := ""
		for o, s := range each[corev1.Service](c.objects) {
			if selected(s.Spec.Selector, f.to) && slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == f.port }) {
				host = o.name
			}
		}
		for _, given := range c.uses {
			password := made[given.secret][given.key]
			switch {
			case given.workload != f.to || host == "" || password == "":
			case u.variable == databaseVariable && given.key == w.service.Name:
				return fmt.Sprintf("postgres://%s:%s@%s:%d/%[1]s?sslmode=disable", given.key, password, host, f.port)
			case u.variable != databaseVariable && given.secret == u.secret:
				return fmt.Sprintf("nats://%s@%s:%d", password, host, f.port)
			}
		}
	}
	return ""
}
