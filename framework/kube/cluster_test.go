package kube_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/kube"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"), // one of a process
		goleak.IgnoreAnyFunction("net/http.(*http2clientConnReadLoop).run"), // of the tests' own client
		goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
	)
}

// wait is longer than anything takes that is to happen.
const wait = time.Minute

// cluster is a namespace of the test's own, seen with all rights.
type cluster struct {
	t *testing.T
	kubernetes.Interface
	namespace string
	config    *clientcmdapi.Config
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("KUBECONFIG is not set: this test needs a Kubernetes cluster, such as kind or k3d make, and the right to make namespaces in it")
	}
	c := &cluster{t: t}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil)
	raw, err := loader.RawConfig()
	if err != nil {
		t.Fatal(err)
	}
	c.config = &raw
	if err := clientcmdapi.MinifyConfig(c.config); err != nil {
		t.Fatal(err)
	}
	if err := clientcmdapi.FlattenConfig(c.config); err != nil {
		t.Fatal(err)
	}
	cfg, err := loader.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	if c.Interface, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	ns, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "turnstile-kube-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.namespace = ns.Name
	t.Cleanup(func() {
		if err := c.CoreV1().Namespaces().Delete(context.Background(), c.namespace, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return c
}

// grant gives the ServiceAccount of the service exactly the rights that it describes.
func (c *cluster) grant(tasks ...string) {
	c.t.Helper()
	var out bytes.Buffer
	err := framework.Run(c.t.Context(), "orders", func(s *framework.Service, cfg config) error {
		pod, err := kube.New(s, cfg.Kube)
		if err != nil {
			return err
		}
		if pod.Lead(tasks...) != nil {
			c.t.Error("describe has somebody elect")
		}
		s.Add("kubernetes", pod)
		return nil
	}, framework.Options{Args: []string{"describe"}, Stdout: &out})
	if err != nil {
		c.t.Fatal(err)
	}
	var described struct {
		Kubernetes struct {
			Rules []rbacv1.PolicyRule `json:"rules"`
		} `json:"kubernetes"`
	}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(out.String(), "$(KUBE_CONFIGMAP)", "orders-settings")), &described); err != nil {
		c.t.Fatal(err)
	}
	name := metav1.ObjectMeta{Name: "orders"}
	role := &rbacv1.Role{ObjectMeta: name, Rules: described.Kubernetes.Rules}
	if _, err := c.RbacV1().Roles(c.namespace).Create(c.t.Context(), role, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: name, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "orders"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "orders", Namespace: c.namespace}},
	}
	if _, err := c.RbacV1().RoleBindings(c.namespace).Create(c.t.Context(), binding, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// credentials writes a kubeconfig file with which one is the ServiceAccount of the service, after change.
func (c *cluster) credentials(change func(server *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo)) string {
	c.t.Helper()
	cfg := c.config.DeepCopy()
	current := cfg.Contexts[cfg.CurrentContext]
	user := cfg.AuthInfos[current.AuthInfo]
	user.Impersonate = "system:serviceaccount:" + c.namespace + ":orders"
	if change != nil {
		change(cfg.Clusters[current.Cluster], user)
	}
	file := filepath.Join(c.t.TempDir(), "config")
	if err := clientcmd.WriteToFile(*cfg, file); err != nil {
		c.t.Fatal(err)
	}
	return file
}

// nobody writes a kubeconfig file of an API server that is not there.
func nobody(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["none"] = &clientcmdapi.Cluster{Server: "http://" + listener.Addr().String()}
	cfg.Contexts["none"] = &clientcmdapi.Context{Cluster: "none"}
	cfg.CurrentContext = "none"
	file := filepath.Join(t.TempDir(), "config")
	if err := clientcmd.WriteToFile(*cfg, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// link is a connection to the API server that can be cut.
type link struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	down  bool
	conns []net.Conn
	done  sync.WaitGroup
}

// link has what uses the credentials go through the link.
func (c *cluster) link() (*link, func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo)) {
	c.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	l := &link{listener: listener}
	c.t.Cleanup(func() {
		l.cut()
		listener.Close()
		l.done.Wait()
	})
	return l, func(server *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) {
		u, err := url.Parse(server.Server)
		if err != nil {
			c.t.Fatal(err)
		}
		l.to = u.Host
		if u.Port() == "" {
			l.to = net.JoinHostPort(u.Host, "443")
		}
		server.Server, server.TLSServerName = "https://"+listener.Addr().String(), u.Hostname()
		l.done.Go(l.serve)
	}
}

func (l *link) serve() {
	for {
		from, err := l.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", l.to)
		l.mu.Lock()
		if err != nil || l.down {
			from.Close()
			if to != nil {
				to.Close()
			}
			l.mu.Unlock()
			continue
		}
		l.conns = append(l.conns, from, to)
		l.mu.Unlock()
		for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
			l.done.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				way[0].Close()
			})
		}
	}
}

// cut ends all connections, and new ones at once.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

// config is the configuration of the services here.
type config struct{ Kube kube.Config }

// process is a service that runs as a pod.
type process struct {
	t       *testing.T
	log     *buffer
	signals chan os.Signal
	ready   chan struct{}
	result  chan error
	ended   chan struct{}
}

// run runs a service whose pod has the name; build may add parts.
func run(t *testing.T, namespace, pod, credentials string, build func(s *framework.Service, pod *kube.Pod) error, environ ...string) *process {
	t.Helper()
	p := &process{t: t, log: new(buffer), signals: make(chan os.Signal, 2), ready: make(chan struct{}), result: make(chan error, 1), ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(p.ended)
		p.result <- framework.Run(ctx, "orders", func(s *framework.Service, cfg config) error {
			kubernetes, err := kube.New(s, cfg.Kube)
			if err != nil {
				return err
			}
			s.Add("kubernetes", kubernetes)
			if build == nil {
				return nil
			}
			return build(s, kubernetes)
		}, framework.Options{
			Environ: append([]string{
				"ADMIN_ADDR=127.0.0.1:0", "DRAIN_DELAY=0s", "POD_NAME=" + pod, "POD_NAMESPACE=" + namespace, "POD_UID=uid-of-" + pod,
				"POD_IP=192.0.2.1", "KUBE_CONFIG=" + credentials,
			}, environ...),
			Stdout: p.log, Stderr: p.log, Signals: p.signals, Ready: func(map[string]string) { close(p.ready) },
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-p.ended
		if t.Failed() {
			t.Logf("log of %s:\n%s", pod, p.log)
		}
	})
	within(t, "the service is ready", p.ready)
	return p
}

func (p *process) stop() error {
	p.t.Helper()
	p.signals <- syscall.SIGTERM
	return within(p.t, "the service has stopped", p.result)
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// within waits for something to come.
func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(wait):
		t.Fatalf("not after %s: %s", wait, what)
		panic("unreachable")
	}
}

// until asks until there is something.
func until(t *testing.T, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(wait)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s: %v", wait, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// logged waits for a line of the log.
func (p *process) logged(text string) {
	p.t.Helper()
	until(p.t, "logged "+text, func() error {
		if !strings.Contains(p.log.String(), text) {
			return fmt.Errorf("not in the log")
		}
		return nil
	})
}
