// Package framework runs a service: configuration, telemetry, probes, ordered start, drain.
package framework
