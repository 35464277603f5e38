package externalmetrics

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/turnstile-go/turnstile/framework/internal/adminport"
)

// authority issues client certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = issue(t, "authority", nil)
	return a
}

// issue makes a certificate: an authority's if by is nil.
func issue(t *testing.T, name string, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	parent, signer := template, key
	if by == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		template.ExtKeyUsage = nil
	} else {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// client returns one with a certificate of that name, or without any if a is nil.
func (a *authority) client(t *testing.T, name string) *http.Client {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true} // as the API server does
	if a != nil {
		cert, key := issue(t, name, a)
		cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	}
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// pod answers at /metrics; what it says may change.
type pod struct {
	*httptest.Server
	text  atomic.Pointer[string]
	asked atomic.Int64
}

func newPod(t *testing.T, text string) *pod {
	t.Helper()
	p := &pod{}
	p.text.Store(&text)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		if r.URL.Path != "/metrics" {
			t.Errorf("a pod is asked for %s", r.URL.Path)
		}
		if *p.text.Load() == "" {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, *p.text.Load())
	}))
	t.Cleanup(p.Close)
	return p
}

func behind(seconds ...float64) string {
	text := "# TYPE " + Metric + " gauge\n"
	for i, s := range seconds {
		text += fmt.Sprintf("%s{messaging_consumer_group_name=\"g}\",messaging_destination_name=\"s%d\"} %v\n", Metric, i, s)
	}
	return text + Metric + "_other{a=\"b\"} 99999\ngo_goroutines 12\n"
}

// api stands for the API server: it knows one ConfigMap, and the pods of the
// Services of one namespace.
type api struct {
	*httptest.Server
	published map[string]string
	services  map[string][]string // the items of their EndpointSlices, in JSON
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{services: map[string][]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", func(w http.ResponseWriter, _ *http.Request) {
		adminport.Respond(w, http.StatusOK, map[string]any{"data": a.published})
	})
	mux.HandleFunc("GET /apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", func(w http.ResponseWriter, r *http.Request) {
		name, _ := strings.CutPrefix(r.URL.Query().Get("labelSelector"), "kubernetes.io/service-name=")
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"items": [%s]}`, strings.Join(a.services[name], ","))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusForbidden, "not there: "+r.URL.Path)
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

// add gives a Service another pod.
func (a *api) add(t *testing.T, service, port string, ready bool, p *pod) {
	t.Helper()
	u, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	a.services[service] = append(a.services[service], fmt.Sprintf(
		`{"endpoints": [{"addresses": [%q], "conditions": {"ready": %v}}], "ports": [{"name": "http", "port": 1}, {"name": %q, "port": %s}]}`,
		u.Hostname(), ready, port, u.Port()))
}

// start runs a server until the test is over.
func start(t *testing.T, a *api) (address string) {
	t.Helper()
	server, err := New(&rest.Config{Host: a.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return "https://" + listener.Addr().String()
}

// get returns an answer's code and its text.
func get(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

const root = "/apis/external.metrics.k8s.io/v1beta1"

func lagPath(namespace, metric, selector string) string {
	return root + "/namespaces/" + namespace + "/" + metric + "?labelSelector=" + url.QueryEscape(selector)
}

func TestValues(t *testing.T) {
	front := newAuthority(t)
	a := newAPI(t)
	a.published = map[string]string{"requestheader-client-ca-file": front.pem(), "requestheader-allowed-names": `["aggregator"]`}

	a.add(t, "orders", "admin", true, newPod(t, behind(0.25, 7.0004)))
	a.add(t, "orders", "admin", true, newPod(t, behind(3)))
	a.add(t, "orders", "admin", false, newPod(t, behind(1000)))
	a.add(t, "partly", "admin", true, newPod(t, behind(12)))
	a.add(t, "partly", "admin", true, newPod(t, ""))
	a.add(t, "idle", "admin", true, newPod(t, behind(0)))
	a.add(t, "broken", "admin", true, newPod(t, ""))
	a.add(t, "starting", "admin", false, newPod(t, behind(1)))
	a.add(t, "auth", "admin", true, newPod(t, behind()))
	a.add(t, "odd", "admin", true, newPod(t, Metric+"{} NaN\n"))
	a.add(t, "portless", "web", true, newPod(t, behind(1)))
	gone := newPod(t, behind(1))
	a.add(t, "gone", "admin", true, gone)
	gone.Close()

	address, client := start(t, a), front.client(t, "aggregator")
	for _, tt := range []struct {
		path string
		code int
		want string // the value, or a part of the message
	}{
		{lagPath("shop", Metric, "service=orders"), 200, "7001m"},
		{lagPath("shop", Metric, "service==orders"), 200, "7001m"},
		{lagPath("shop", Metric, "service=partly"), 200, "12000m"},
		{lagPath("shop", Metric, "service=idle"), 200, "0m"},
		{lagPath("shop", Metric, "service=broken"), 503, "no pod of Service shop/broken answers"},
		{lagPath("shop", Metric, "service=gone"), 503, "no pod of Service shop/gone answers"},
		{lagPath("shop", Metric, "service=odd"), 503, "want a number of seconds"},
		{lagPath("shop", Metric, "service=starting"), 503, "no pod of Service shop/starting is ready"},
		{lagPath("shop", Metric, "service=auth"), 404, "does it listen to events?"},
		{lagPath("shop", Metric, "service=portless"), 404, "no port with the name admin"},
		{lagPath("shop", Metric, "service=nobody"), 404, "there is no Service shop/nobody"},
		{lagPath("elsewhere", Metric, "service=orders"), 503, "list the pods of Service elsewhere/orders: not there"},
		{lagPath("shop", "other", "service=orders"), 404, "there is no external metric other"},
		{lagPath("shop", Metric, ""), 400, "want service=<name of a Service>"},
		{lagPath("shop", Metric, "service in (orders, tickets)"), 400, "want service=<name of a Service>"},
		{lagPath("shop", Metric, "service=orders,stream=s0"), 400, "want service=<name of a Service>"},
		{lagPath("shop", Metric, "service!=orders"), 400, "want service=<name of a Service>"},
		{lagPath("shop", Metric, "=)"), 400, "the label selector"},
		{"/apis/external.metrics.k8s.io/v2", 404, "there is no /apis"},
	} {
		code, text := get(t, client, address+tt.path)
		if code != tt.code {
			t.Errorf("%s: %d %s, want %d", tt.path, code, text, tt.code)
			continue
		}
		var got struct {
			Kind, APIVersion, Status, Message, Reason string
			Code                                      int
			Items                                     []struct {
				MetricName   string
				MetricLabels map[string]string
				Timestamp    time.Time
				Value        string
			}
		}
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v: %s", tt.path, err, text)
			continue
		}
		if code != 200 {
			if got.Kind != "Status" || got.APIVersion != "v1" || got.Status != "Failure" || got.Code != code || got.Reason == "" || !strings.Contains(got.Message, tt.want) {
				t.Errorf("%s: %s, want a Status that says %q", tt.path, text, tt.want)
			}
			continue
		}
		if got.Kind != "ExternalMetricValueList" || got.APIVersion != "external.metrics.k8s.io/v1beta1" || len(got.Items) != 1 {
			t.Errorf("%s: %s, want a list of one value", tt.path, text)
			continue
		}
		if v := got.Items[0]; v.MetricName != Metric || v.MetricLabels["service"] == "" || v.Value != tt.want || time.Since(v.Timestamp) > time.Minute {
			t.Errorf("%s: %+v, want %s", tt.path, v, tt.want)
		}
	}

	code, text := get(t, client, address+root)
	if code != 200 || !strings.Contains(text, `"kind":"APIResourceList"`) || !strings.Contains(text, `"name":"`+Metric+`"`) {
		t.Errorf("discovery: %d %s", code, text)
	}
	if code, text := get(t, client, address+"/openapi/v2"); code != 200 || !strings.Contains(text, `"swagger":"2.0"`) {
		t.Errorf("OpenAPI: %d %s", code, text)
	}
}

// Only the aggregator is told anything; probes are answered to everybody.
func TestOnlyTheAggregatorIsAnswered(t *testing.T) {
	front := newAuthority(t)
	a := newAPI(t)
	a.published = map[string]string{"requestheader-client-ca-file": front.pem(), "requestheader-allowed-names": `["aggregator"]`}
	a.add(t, "orders", "admin", true, newPod(t, behind(1)))
	address := start(t, a)

	if code, text := get(t, front.client(t, "aggregator"), address+lagPath("shop", Metric, "service=orders")); code != 200 {
		t.Errorf("the aggregator: %d %s", code, text)
	}
	nobody := (*authority)(nil).client(t, "")
	for _, path := range []string{root, lagPath("shop", Metric, "service=orders"), "/", "/metrics"} {
		if code, text := get(t, nobody, address+path); code != http.StatusUnauthorized {
			t.Errorf("%s without a certificate: %d %s", path, code, text)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if code, text := get(t, nobody, address+path); code != 200 {
			t.Errorf("%s without a certificate: %d %s", path, code, text)
		}
	}
	for name, client := range map[string]*http.Client{
		"another name":      front.client(t, "somebody"),
		"another authority": newAuthority(t).client(t, "aggregator"),
	} {
		if response, err := client.Get(address + lagPath("shop", Metric, "service=orders")); err == nil {
			response.Body.Close()
			t.Errorf("with a certificate of %s: %s", name, response.Status)
		}
	}
}

// When the cluster has a new authority, the old one's certificates are worth
// nothing. Without allowed names any name will do.
func TestTheAggregatorChanges(t *testing.T) {
	before, after := newAuthority(t), newAuthority(t)
	knows := func(by *authority) *aggregator {
		a, err := newAggregator(map[string]string{"requestheader-client-ca-file": by.pem(), "requestheader-allowed-names": "[]"})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	certificate, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	in := &door{certificate: certificate, aggregator: knows(before)}
	server := httptest.NewUnstartedServer(fromAggregator(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	server.TLS = in.config()
	server.StartTLS()
	defer server.Close()
	if code, text := get(t, before.client(t, "any"), server.URL); code != 200 {
		t.Errorf("before: %d %s", code, text)
	}
	in.expect(knows(after))
	if code, text := get(t, after.client(t, "any"), server.URL); code != 200 {
		t.Errorf("after: %d %s", code, text)
	}
	if response, err := before.client(t, "any").Get(server.URL); err == nil {
		response.Body.Close()
		t.Errorf("the old authority's certificate, after: %s", response.Status)
	}
}

// A cluster that does not say how to know its aggregator is an error at once.
func TestRunWithoutAggregator(t *testing.T) {
	for _, tt := range []struct {
		name      string
		published map[string]string
		want      string
	}{
		{"nothing", nil, "is the cluster's aggregation layer configured"},
		{"odd names", map[string]string{"requestheader-client-ca-file": newAuthority(t).pem(), "requestheader-allowed-names": "front"}, "requestheader-allowed-names"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAPI(t)
			a.published = tt.published
			server, err := New(&rest.Config{Host: a.URL}, nil)
			if err != nil {
				t.Fatal(err)
			}
			listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if err := server.Run(t.Context(), listener); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run: %v, want %q", err, tt.want)
			}
			if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", listener.Addr().String()); err == nil {
				conn.Close()
				t.Error("the listener is still open")
			}
		})
	}
}

// However many ask, a service is asked once a second; and then again.
func TestAServiceIsAskedOnceASecond(t *testing.T) {
	a := newAPI(t)
	p := newPod(t, behind(1))
	a.add(t, "orders", "admin", true, p)
	server, err := New(&rest.Config{Host: a.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	orders := service{"shop", "orders"}
	started := time.Now()
	first, err := server.lags.of(t.Context(), orders)
	if err != nil || first.seconds != 1 {
		t.Fatalf("%+v: %v", first, err)
	}
	later := behind(2)
	p.text.Store(&later)
	for range 10 {
		again, err := server.lags.of(t.Context(), orders)
		if err != nil || again != first && time.Since(started) < keepFor {
			t.Errorf("%+v: %v, want %+v", again, err, first)
		}
	}
	if n := p.asked.Load(); n != 1 && time.Since(started) < keepFor {
		t.Errorf("the pod was asked %d times", n)
	}
	for deadline := started.Add(time.Minute); ; {
		lag, err := server.lags.of(t.Context(), orders)
		if err != nil {
			t.Fatal(err)
		}
		if lag.seconds == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the pod is never asked again")
		}
		time.Sleep(10 * time.Millisecond)
	}
	// An error is no number, whatever was known before.
	p.text.Store(new(string))
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := server.lags.of(t.Context(), orders); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("what was known once is told for ever")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
