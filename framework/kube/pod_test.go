package kube_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/kube"
)

// workers is a part whose number of workers may change, and which says what it was set to.
type workers chan string

func (w workers) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (w workers) Adjust() map[string]func(string) error {
	return map[string]func(string) error{"EVENT_WORKERS": func(value string) error {
		if value == "0" {
			return errors.New("want 1 or more")
		}
		w <- value
		return nil
	}}
}

func TestConfigMapIsFollowed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant()
	set := make(workers, 10)
	p := run(t, c.namespace, "orders-a", c.credentials(nil), func(s *framework.Service, _ *kube.Pod) error {
		s.Add("events", set)
		return nil
	}, "EVENT_WORKERS=4", "KUBE_CONFIGMAP=orders-settings")
	p.logged("the ConfigMap does not exist")

	configMaps := c.CoreV1().ConfigMaps(c.namespace)
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "orders-settings"}, Data: map[string]string{"EVENT_WORKERS": "8"}}
	began := time.Now()
	settings, err := configMaps.Create(t.Context(), settings, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		if got := within(t, "a setting", set); got != want {
			t.Errorf("set to %s, want %s", got, want)
		}
	}
	expect("8")
	change := func(data map[string]string) {
		t.Helper()
		began = time.Now()
		settings.Data = data
		if settings, err = configMaps.Update(t.Context(), settings, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	change(map[string]string{"EVENT_WORKERS": "2"})
	expect("2")
	t.Logf("a change takes effect after %s", time.Since(began).Round(time.Millisecond))
	c.event("SettingsApplied", "configmap=orders-settings")

	// What is of no use is refused, and told of where people look; the rest applies.
	change(map[string]string{"EVENT_WORKERS": "0", "LOG_LEVEL": "DEBUG", "COLOUR": "red"})
	e := c.event("SettingsRejected", "correct the ConfigMap")
	if e.Type != "Warning" || !strings.Contains(e.Message, "EVENT_WORKERS") || !strings.Contains(e.Message, "want 1 or more") ||
		!strings.Contains(e.Message, "COLOUR cannot be changed while the service runs") {
		t.Errorf("told %s: %s", e.Type, e.Message)
	}
	p.logged(`"variable":"LOG_LEVEL"`)

	if err := configMaps.Delete(t.Context(), "orders-settings", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("4")
	p.logged("the ConfigMap is gone")
}

// event waits for an Event about orders-a whose text contains that.
func (c *cluster) event(reason, text string) corev1.Event {
	c.t.Helper()
	var found corev1.Event
	until(c.t, "an Event "+reason, func() error {
		events, err := c.CoreV1().Events(c.namespace).List(c.t.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.kind=Pod,involvedObject.name=orders-a,involvedObject.uid=uid-of-orders-a,reason=" + reason,
		})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if strings.Contains(e.Message, text) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("there are %v", events.Items)
	})
	return found
}

// logger returns a build function that hands out the service's logger.
func logger(log chan<- *framework.Service) func(s *framework.Service, _ *kube.Pod) error {
	return func(s *framework.Service, _ *kube.Pod) error {
		log <- s
		return nil
	}
}

func TestNoticesBecomeEvents(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant()
	services := make(chan *framework.Service, 1)
	p := run(t, c.namespace, "orders-a", c.credentials(nil), logger(services), "LOG_LEVEL=ERROR")
	s := <-services
	began := time.Now()
	s.Log.Warn("the broker is lost", "notice", "BrokerLost", "broker", "stan")
	e := c.event("BrokerLost", "the broker is lost (broker=stan)")
	t.Logf("seen after %s", time.Since(began).Round(time.Millisecond))
	if e.Type != "Warning" || e.ReportingController != "orders" || e.InvolvedObject.APIVersion != "v1" || e.Series != nil {
		t.Errorf("told %+v", e)
	}

	// Long texts are cut, not refused, and bytes that are no text do no harm.
	s.Log.Info(strings.Repeat("é", 2000)+"\xff", "notice", "Long")
	if e := c.event("Long", "éé"); len(e.Message) > 1024 || !strings.HasSuffix(e.Message, "é…") || e.Type != "Normal" {
		t.Errorf("told %d bytes, %s", len(e.Message), e.Type)
	}

	// The same again is counted, at the latest when the service stops.
	for range 50 {
		s.Log.Warn("the broker is lost", "notice", "BrokerLost", "broker", "stan")
	}
	// Of many different ones, some are only in the log, and it says so.
	for i := range 200 {
		s.Log.Warn("a dead letter", "notice", "DeadLetter", "event", i)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	if e := c.event("BrokerLost", "the broker is lost"); e.Series == nil || e.Series.Count != 51 {
		t.Errorf("counted %+v", e.Series)
	}
	letters, err := c.CoreV1().Events(c.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=DeadLetter"})
	if n := len(letters.Items); err != nil || n > 11 { // one more may be due meanwhile
		t.Errorf("%d Events of dead letters, %v", n, err)
	}
}

// failing is a part that cannot start, as a database whose migrations fail.
type failing struct{ log func() }

func (f failing) Run(context.Context) error { return nil }
func (f failing) Start(context.Context) error {
	f.log()
	return permanent{errors.New("3.sql: syntax error")}
}

type permanent struct{ error }

func (permanent) Permanent() bool { return true }

func TestWhatEndsTheServiceIsTold(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant()
	credentials := c.credentials(nil)
	err := framework.Run(t.Context(), "orders", func(s *framework.Service, cfg config) error {
		pod, err := kube.New(s, cfg.Kube)
		if err != nil {
			return err
		}
		s.Add("kubernetes", pod)
		s.Add("database", failing{func() {
			s.Log.Error("the migration fails", "notice", "MigrationFailed", "error", "3.sql: syntax error")
		}})
		return nil
	}, framework.Options{Environ: []string{
		"ADMIN_ADDR=127.0.0.1:0", "POD_NAME=orders-a", "POD_UID=uid-of-orders-a", "POD_NAMESPACE=" + c.namespace, "KUBE_CONFIG=" + credentials,
	}})
	if err == nil {
		t.Fatal("the service ran")
	}
	c.event("MigrationFailed", "the migration fails (error=3.sql: syntax error)")
}

// slice is an EndpointSlice with the endpoints.
func (c *cluster) slice(endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	c.t.Helper()
	slice, err := c.DiscoveryV1().EndpointSlices(c.namespace).Create(c.t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "orders-"}, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return slice
}

func endpoint(address, pod string, ready, terminating *bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ready, Terminating: terminating}}
	if pod != "" {
		e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: pod}
	}
	return e
}

func TestDrainWaitsUntilNothingIsSent(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant()
	yes, no := true, false
	other := endpoint("192.0.2.9", "orders-b", &yes, nil)
	byName := c.slice(other, endpoint("192.0.2.7", "orders-a", &yes, nil))
	byAddress := c.slice(endpoint("192.0.2.1", "", nil, nil))
	p := run(t, c.namespace, "orders-a", c.credentials(nil), nil)
	p.signals <- os.Interrupt
	p.logged("draining")

	byName.Endpoints[1].Conditions.Ready = &no
	if _, err := c.DiscoveryV1().EndpointSlices(c.namespace).Update(t.Context(), byName, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.result:
		t.Error("stopped while an EndpointSlice had its address")
	case <-time.After(500 * time.Millisecond):
	}
	began := time.Now()
	byAddress.Endpoints[0].Conditions.Terminating = &yes
	if _, err := c.DiscoveryV1().EndpointSlices(c.namespace).Update(t.Context(), byAddress, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "the service has stopped", p.result); err != nil {
		t.Error(err)
	}
	t.Logf("stopped %s after the address had left", time.Since(began).Round(time.Millisecond))
	p.logged("no EndpointSlice has this pod any more")
}

func TestDrainOfWhatNothingIsSentTo(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant()
	yes := true
	c.slice(endpoint("192.0.2.9", "orders-b", &yes, nil))
	p := run(t, c.namespace, "orders-a", c.credentials(nil), nil)
	began := time.Now()
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopped after %s", took)
	}
}

func TestDrainHasALimit(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant()
	yes := true
	slice := c.slice(endpoint("192.0.2.1", "", &yes, nil))
	p := run(t, c.namespace, "orders-a", c.credentials(nil), nil, "KUBE_DRAIN_LIMIT=1s")
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	p.logged("after 1s (KUBE_DRAIN_LIMIT): it is ready in EndpointSlice [" + slice.Name + "]")
}

// An API server that is not there keeps no service from starting, running and stopping.
func TestAPIServerIsAway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("prune")
	link, through := c.link()
	credentials := c.credentials(through)
	link.cut()
	terms := make(chan *term, 1)
	set := make(workers, 1)
	services := make(chan *framework.Service, 1)
	lead := leader("orders-a", terms)
	p := run(t, c.namespace, "orders-a", credentials, func(s *framework.Service, pod *kube.Pod) error {
		services <- s
		s.Add("events", set)
		return lead(s, pod)
	}, "KUBE_CONFIGMAP=orders-settings", "KUBE_DRAIN_LIMIT=100ms")
	s := <-services
	s.Log.Warn("the broker is lost", "notice", "BrokerLost")
	p.logged("who does the task is not known")
	p.logged("notices do not become Events")

	// All is made up for once it is there.
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "orders-settings"}, Data: map[string]string{"EVENT_WORKERS": "8"}}
	if _, err := c.CoreV1().ConfigMaps(c.namespace).Create(t.Context(), settings, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	link.mend()
	within(t, "it leads", terms)
	within(t, "the setting", set)
	c.event("BrokerLost", "the broker is lost")

	link.cut()
	began := time.Now()
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopped after %s", took)
	}
	p.logged("whether work is still sent to this pod is not known after 100ms (KUBE_DRAIN_LIMIT)")
}

// What waits for an API server that refuses connections, also after many attempts, waits no longer than it should. Pauses
// between attempts are left to chance, so many wait.
func TestNothingOutwaitsItsEndWhileTheAPIServerIsAway(t *testing.T) {
	t.Parallel()
	const limit, many = 3 * time.Second, 10
	var pod *kube.Pod
	var lead func(ctx context.Context, task string, do func(context.Context)) error
	run(t, "turnstile", "orders-a", nobody(t), func(_ *framework.Service, p *kube.Pod) error {
		pod, lead = p, p.Lead("prune")
		return nil
	}, "KUBE_DRAIN_LIMIT="+limit.String())
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var waiting sync.WaitGroup
	began := time.Now()
	for range many {
		waiting.Go(func() {
			err := pod.Drain(t.Context())
			if took := time.Since(began); took < limit || took > limit+time.Second {
				t.Errorf("drained after %s, want %s", took, limit)
			}
			if err == nil || !strings.Contains(err.Error(), "connection refused") {
				t.Errorf("Drain = %v", err)
			}
		})
		waiting.Go(func() {
			err := lead(ctx, "prune", func(context.Context) { t.Error("led") })
			if took := time.Since(began); err != nil || took > limit+time.Second {
				t.Errorf("lead = %v after %s, cancelled after %s", err, took, limit)
			}
		})
	}
	waiting.Wait()
}

// Who is refused runs all the same, and says what is missing.
func TestNoRights(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for name, change := range map[string]func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo){
		"forbidden": nil,
		"Unauthorized": func(_ *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) {
			*user = clientcmdapi.AuthInfo{Token: "made up"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			services := make(chan *framework.Service, 1)
			p := run(t, c.namespace, "orders-a", c.credentials(change), logger(services), "KUBE_CONFIGMAP=orders-settings", "KUBE_DRAIN_LIMIT=100ms")
			(<-services).Log.Warn("the broker is lost", "notice", "BrokerLost")
			p.logged("notices do not become Events")
			p.logged("the settings are not followed")
			if err := p.stop(); err != nil {
				t.Error(err)
			}
			if !strings.Contains(p.log.String(), name) {
				t.Error("the reason is not logged")
			}
		})
	}
}

// Outside of a cluster nothing runs, and nothing is elected by.
func TestNoCluster(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		environ []string
		says    string
	}{
		"nothing is set":      {nil, ""},
		"a name":              {[]string{"POD_NAME=orders-a"}, ""},
		"settings":            {[]string{"KUBE_CONFIGMAP=orders-settings"}, "KUBE_CONFIGMAP is not followed"},
		"a pod with no token": {[]string{"POD_NAME=orders-a", "POD_NAMESPACE=turnstile"}, "automountServiceAccountToken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := new(buffer)
			ctx, cancel := context.WithCancel(t.Context())
			err := framework.Run(ctx, "orders", func(s *framework.Service, cfg config) error {
				pod, err := kube.New(s, cfg.Kube)
				if err != nil {
					return err
				}
				if pod.Lead("prune") != nil {
					t.Error("Lead is not nil")
				}
				s.Add("kubernetes", pod)
				return nil
			}, framework.Options{
				Environ: append([]string{"ADMIN_ADDR=127.0.0.1:0", "DRAIN_DELAY=0s", "LOG_LEVEL=WARN"}, test.environ...), Stdout: log,
				Ready: func(map[string]string) { cancel() },
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := log.String(); !strings.Contains(got, test.says) || test.says == "" && got != "" {
				t.Errorf("logged %s, want %q", got, test.says)
			}
		})
	}
}

func TestConfigurationThatIsOfNoUse(t *testing.T) {
	t.Parallel()
	for environ, want := range map[string]string{
		"KUBE_LEASE_DURATION=1s":     "KUBE_LEASE_DURATION is 1s: want whole seconds, 3s or more",
		"KUBE_LEASE_DURATION=4500ms": "KUBE_LEASE_DURATION is 4.5s: want whole seconds",
		"KUBE_DRAIN_LIMIT=-1s":       "KUBE_DRAIN_LIMIT is -1s: want 0s or more",
		"KUBE_CONFIG=/none":          "set POD_NAME and POD_NAMESPACE too",
		"KUBE_CONFIG=/none POD_NAME=orders-a POD_NAMESPACE=turnstile": "KUBE_CONFIG: stat /none: no such file",
	} {
		err := framework.Run(t.Context(), "orders", func(s *framework.Service, cfg config) error {
			_, err := kube.New(s, cfg.Kube)
			return err
		}, framework.Options{Args: []string{"check"}, Environ: strings.Fields(environ)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check of %s = %v, want %s", environ, err, want)
		}
	}
}
