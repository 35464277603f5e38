// Package externalmetrics serves Kubernetes's external metrics API with how far
// services are behind with their events, so that a HorizontalPodAutoscaler can
// follow it. The services say themselves how far: see [Metric].
//
// Who may ask is decided before a request gets here: the API server holds it
// against RBAC and passes it on as the "aggregator", with a client certificate
// that nobody else has. Without that nothing is answered but probes.
package externalmetrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/rest"

	"github.com/turnstile-go/turnstile/framework/internal/adminport"
)

// Metric is the metric that is served: how many seconds ago the oldest event was
// committed that a process of the service is at. It has the name that it has at
// the services' /metrics. The label selector service=<name> says of which
// Service; of its ready pods it is the one furthest behind that counts.
const Metric = "turnstile_event_in_flight_age_seconds"

// serviceLabel has the name that Prometheus gives it.
const serviceLabel = "service"

// apiVersion is that of the API which is served.
const apiVersion = "external.metrics.k8s.io/v1beta1"

const (
	stopTimeout  = 5 * time.Second // for requests under way
	refreshEvery = time.Minute     // the aggregator's certificate authority may change
)

// Server is one replica. Create it with New.
type Server struct {
	cluster *cluster
	lags    *lags
	log     *slog.Logger
	handler http.Handler
}

// New returns a server that asks the cluster of cfg for the services' pods. It
// connects to nothing. A nil log discards.
func New(cfg *rest.Config, log *slog.Logger) (*Server, error) {
	c, err := newCluster(cfg)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cluster: c, lags: newLags(c, log), log: log}
	api := http.NewServeMux()
	const root = "/apis/" + apiVersion
	api.HandleFunc("GET "+root, s.discover)
	api.HandleFunc("GET /openapi/v2", s.openAPI)
	api.HandleFunc("GET "+root+"/namespaces/{namespace}/{metric}", s.value)
	api.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "there is no "+r.URL.Path)
	})
	mux := http.NewServeMux()
	for _, probe := range []string{"/livez", "/readyz"} {
		mux.HandleFunc("GET "+probe, func(http.ResponseWriter, *http.Request) {}) // 200: it serves only once it can do its work
	}
	mux.Handle("/", fromAggregator(api))
	s.handler = mux
	return s, nil
}

// Run answers what comes in at listener until ctx is done, and then what is
// under way. It closes the listener. It returns an error if it cannot find out
// how to know the aggregator, or cannot serve.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	defer listener.Close()
	a, err := s.cluster.aggregator(ctx)
	if err != nil {
		return err
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	in := &door{certificate: certificate, aggregator: a}

	// The parts end when this does, for whichever reason.
	ctx, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	parts.Go(func() { s.refresh(ctx, in) })
	server := &http.Server{
		Handler: s.handler, TLSConfig: in.config(), ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ReadTimeout: 5 * time.Second, WriteTimeout: 2 * askTimeout, IdleTimeout: 2 * time.Minute,
	}
	parts.Go(func() {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if server.Shutdown(late) != nil {
			_ = server.Close() // what is still under way has had its time
		}
	})
	s.log.InfoContext(ctx, "serving the external metrics API", "address", listener.Addr().String())
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the external metrics API: %w", err)
	}
	return nil
}

// refresh looks for what has become of the aggregator's certificate authority.
func (s *Server) refresh(ctx context.Context, in *door) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(refreshEvery):
		}
		a, err := s.cluster.aggregator(ctx)
		if err != nil {
			s.log.WarnContext(ctx, "who the aggregator is was not to be found out again; it stays who it was", "error", err)
			continue
		}
		in.expect(a)
	}
}

// discover tells what there is to ask for.
func (s *Server) discover(w http.ResponseWriter, _ *http.Request) {
	adminport.Respond(w, http.StatusOK, metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: apiVersion,
		APIResources: []metav1.APIResource{{Name: Metric, Namespaced: true, Kind: "ExternalMetricValueList", Verbs: metav1.Verbs{"get"}}},
	})
}

// openAPI answers with a description of nothing: without any, the API server
// asks again and again, and complains every time.
func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request) {
	adminport.Respond(w, http.StatusOK, map[string]any{
		"swagger": "2.0", "info": map[string]string{"title": "external metrics", "version": "v1beta1"}, "paths": struct{}{},
	})
}

// valueList is the API's ExternalMetricValueList.
type valueList struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct{} `json:"metadata"`
	Items           []value  `json:"items"`
}

type value struct {
	MetricName   string            `json:"metricName"`
	MetricLabels map[string]string `json:"metricLabels"`
	Timestamp    metav1.Time       `json:"timestamp"`
	Value        string            `json:"value"` // a quantity
}

// value answers with one value: an autoscaler adds up all it is given. An answer
// that is none leaves the size as it is.
func (s *Server) value(w http.ResponseWriter, r *http.Request) {
	if name := r.PathValue("metric"); name != Metric {
		refuse(w, http.StatusNotFound, fmt.Sprintf("there is no external metric %s, only %s", name, Metric))
		return
	}
	name, err := ServiceOf(r.URL.Query().Get("labelSelector"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	of := service{r.PathValue("namespace"), name}
	lag, err := s.lags.of(r.Context(), of)
	if err != nil {
		code := http.StatusServiceUnavailable
		if _, ok := errors.AsType[missing](err); ok {
			code = http.StatusNotFound
		}
		s.log.WarnContext(r.Context(), "no value", "service", of.String(), "error", err)
		refuse(w, code, err.Error())
		return
	}
	adminport.Respond(w, http.StatusOK, valueList{
		TypeMeta: metav1.TypeMeta{Kind: "ExternalMetricValueList", APIVersion: apiVersion},
		Items: []value{{
			MetricName: Metric, MetricLabels: map[string]string{serviceLabel: name}, Timestamp: metav1.NewTime(lag.at),
			Value: fmt.Sprintf("%.0fm", math.Ceil(lag.seconds*1000)),
		}},
	})
}

// ServiceOf reads the name of the service out of a label selector.
func ServiceOf(text string) (string, error) {
	selector, err := labels.Parse(text)
	if err != nil {
		return "", fmt.Errorf("the label selector %q: %w", text, err)
	}
	requirements, _ := selector.Requirements()
	if len(requirements) == 1 && requirements[0].Key() == serviceLabel {
		switch requirements[0].Operator() {
		case selection.Equals, selection.DoubleEquals:
			return requirements[0].ValuesUnsorted()[0], nil
		}
	}
	return "", fmt.Errorf("the label selector %q: want %s=<name of a Service>, and nothing else", text, serviceLabel)
}

// refuse answers with a Status, which is what clients of Kubernetes understand.
func refuse(w http.ResponseWriter, code int, text string) {
	reasons := map[int]metav1.StatusReason{
		http.StatusBadRequest: metav1.StatusReasonBadRequest, http.StatusUnauthorized: metav1.StatusReasonUnauthorized,
		http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusServiceUnavailable: metav1.StatusReasonServiceUnavailable,
	}
	adminport.Respond(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reasons[code], Message: text,
	})
}
