package framework

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"time"
)

// process is the configuration that every service takes.
type process struct {
	LogLevel  logLevel  `env:"LOG_LEVEL" envDefault:"INFO" doc:"least level that is logged: DEBUG, INFO, WARN or ERROR"`
	LogFormat logFormat `env:"LOG_FORMAT" envDefault:"auto" doc:"json, text, or auto: text in a terminal and json elsewhere"`

	AdminAddr     string        `env:"ADMIN_ADDR" envDefault:":9090" doc:"address of the probes, metrics and debug pages"`
	DrainDelay    time.Duration `env:"DRAIN_DELAY" envDefault:"5s" doc:"when the service is to stop, it goes on serving until no request has come for so long, so that load balancers notice; in a cluster, once the pod's address is withdrawn"`
	DrainDelayMax time.Duration `env:"DRAIN_DELAY_MAX" envDefault:"20s" doc:"longest time to go on serving because requests still come"`
	DrainTimeout  time.Duration `env:"DRAIN_TIMEOUT" envDefault:"25s" doc:"time for requests and event handlers to finish after that"`
	Pod           Pod
	ReadyFile     string `env:"READY_FILE" doc:"file to write, as JSON, with the addresses in use once the service is ready"`

	OTLP        endpoint `env:"OTEL_EXPORTER_OTLP_ENDPOINT" doc:"OpenTelemetry collector to send traces and metrics to; not sent if not set" example:"http://collector:4318"`
	OTLPTraces  endpoint `env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" doc:"full address to send traces to, if another"`
	OTLPMetrics endpoint `env:"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" doc:"full address to send metrics to, if another"`
	Protocol    protocol `env:"OTEL_EXPORTER_OTLP_PROTOCOL" envDefault:"http/protobuf" doc:"how to send them; nothing else is built in"`
}

// Pod says where a process runs in Kubernetes: what the downward API has put into its environment. The zero value
// is a process somewhere else.
type Pod struct {
	Name      string `env:"POD_NAME" doc:"what tells this instance from its siblings; host name and process id if not set"`
	Namespace string `env:"POD_NAMESPACE" doc:"namespace of the pod that this process is in"`
	UID       string `env:"POD_UID" doc:"uid of the pod"`
	IP        string `env:"POD_IP" doc:"address of the pod"`
	Node      string `env:"NODE_NAME" doc:"node that the pod runs on"`
}

func (p *process) instance() string {
	if p.Pod.Name != "" {
		return p.Pod.Name
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}

func (p *process) tracesURL() string { return cmp.Or(string(p.OTLPTraces), p.OTLP.join("v1/traces")) }
func (p *process) metricsURL() string {
	return cmp.Or(string(p.OTLPMetrics), p.OTLP.join("v1/metrics"))
}

type logLevel struct{ slog.Level }

func (l *logLevel) UnmarshalText(text []byte) error {
	if l.Level.UnmarshalText(text) != nil {
		return errors.New("want DEBUG, INFO, WARN or ERROR")
	}
	return nil
}

type logFormat string

func (f *logFormat) UnmarshalText(text []byte) error {
	switch *f = logFormat(text); *f {
	case "auto", "json", "text":
		return nil
	}
	return errors.New("want auto, json or text")
}

// endpoint is the URL of a collector, or empty.
type endpoint string

func (e *endpoint) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return errors.New("want a URL such as http://collector:4318")
	}
	*e = endpoint(text)
	return nil
}

func (e endpoint) join(path string) string {
	u, err := url.Parse(string(e))
	if e == "" || err != nil {
		return ""
	}
	return u.JoinPath(path).String()
}

type protocol string

func (p *protocol) UnmarshalText(text []byte) error {
	if *p = protocol(text); *p != "http/protobuf" {
		return errors.New("want http/protobuf, nothing else is built in")
	}
	return nil
}
