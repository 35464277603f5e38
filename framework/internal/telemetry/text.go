package telemetry

import (
	"slices"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// legible replaces what is not UTF-8 in spans, such as the address of a request that a stranger makes up: OTLP cannot say it,
// and all that is exported together would be lost with it.
func legible(spans []sdktrace.ReadOnlySpan) []sdktrace.ReadOnlySpan {
	all := slices.Clone(spans)
	for i, s := range all {
		if !slices.ContainsFunc(s.Attributes(), illegible) && !slices.ContainsFunc(s.Events(), illegibleEvent) {
			continue
		}
		events := slices.Clone(s.Events())
		for j := range events {
			events[j].Attributes = legibleAttributes(events[j].Attributes)
		}
		all[i] = legibleSpan{s, legibleAttributes(s.Attributes()), events}
	}
	return all
}

type legibleSpan struct {
	sdktrace.ReadOnlySpan
	attributes []attribute.KeyValue
	events     []sdktrace.Event
}

func (s legibleSpan) Attributes() []attribute.KeyValue { return s.attributes }
func (s legibleSpan) Events() []sdktrace.Event         { return s.events }

func illegibleEvent(e sdktrace.Event) bool { return slices.ContainsFunc(e.Attributes, illegible) }

func illegible(a attribute.KeyValue) bool {
	return a.Value.Type() == attribute.STRING && !utf8.ValidString(a.Value.AsString())
}

func legibleAttributes(attributes []attribute.KeyValue) []attribute.KeyValue {
	all := slices.Clone(attributes)
	for i, a := range all {
		if illegible(a) {
			all[i].Value = attribute.StringValue(strings.ToValidUTF8(a.Value.AsString(), "�"))
		}
	}
	return all
}
