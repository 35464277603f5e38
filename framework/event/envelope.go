package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// envelope is an event on the wire: CloudEvents 1.0 in JSON, structured mode.
// The attribute sequence is CloudEvents' extension of that name; previoustime
// (when the key's previous event got its number) is Turnstile's own.
type envelope struct {
	ID           string
	Source       string
	Stream       string // the broker's channel; not an attribute
	Type         string
	Key          string // the attribute subject
	Time         time.Time
	Sequence     int64
	PreviousTime time.Time // zero for a key's first event
	TraceParent  string
	Data         json.RawMessage
}

// wire has the attributes that are known when an event is published. What the
// commit adds, seal appends.
type wire struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject"`
	TraceParent     string          `json:"traceparent,omitempty"`
	DataContentType string          `json:"datacontenttype,omitempty"`
	Data            json.RawMessage `json:"data,omitempty"`
}

// sealed has all attributes.
type sealed struct {
	wire
	Time         time.Time `json:"time"`
	Sequence     string    `json:"sequence"`
	PreviousTime time.Time `json:"previoustime"`
}

// draft encodes e without what only the commit knows.
func (e *envelope) draft() ([]byte, error) {
	return json.Marshal(wire{
		SpecVersion: "1.0", ID: e.ID, Source: e.Source, Type: e.Type, Subject: e.Key,
		TraceParent: e.TraceParent, DataContentType: "application/json", Data: e.Data,
	})
}

// seal completes a draft with the event's number and the times that belong to
// it, in microseconds; previous is 0 for a key's first event.
func seal(draft []byte, sequence, at, previous int64) []byte {
	b := make([]byte, 0, len(draft)+sealSize)
	b = append(b, bytes.TrimSuffix(draft, []byte("}"))...)
	b = append(b, `,"time":"`...)
	b = fromMicros(at).AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","sequence":"`...)
	b = strconv.AppendInt(b, sequence, 10)
	if previous > 0 {
		b = append(b, `","previoustime":"`...)
		b = fromMicros(previous).AppendFormat(b, time.RFC3339Nano)
	}
	return append(b, `"}`...)
}

// sealSize is the most that seal adds.
const sealSize = 140

// decodeEnvelope reads a message of the stream. An error says why the message
// is no event, so that a person can mend its producer.
func decodeEnvelope(stream string, body []byte) (*envelope, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("not UTF-8")
	}
	var s sealed
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fmt.Errorf("not a CloudEvent: %w", err)
	}
	if v := s.SpecVersion; !strings.HasPrefix(v, "1.") {
		return nil, fmt.Errorf("specversion is %q, want 1.0", v)
	}
	if s.ID == "" || len(s.ID) > maxName || strings.ContainsRune(s.ID, 0) {
		return nil, fmt.Errorf("id is missing, longer than %d bytes, or has a NUL", maxName)
	}
	if err := checkName("type", s.Type); err != nil {
		return nil, err
	}
	if err := checkKey(s.Subject); err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	n, err := strconv.ParseInt(s.Sequence, 10, 64)
	if err != nil || n < 1 {
		return nil, fmt.Errorf("sequence is %q, want a number from 1", s.Sequence)
	}
	return &envelope{
		ID: s.ID, Source: s.Source, Stream: stream, Type: s.Type, Key: s.Subject, Time: s.Time,
		Sequence: n, PreviousTime: s.PreviousTime, TraceParent: s.TraceParent, Data: s.Data,
	}, nil
}

// decodeData reads the event itself into a pointer. Its errors become those of
// the handler, which name the event.
func (e *envelope) decodeData(into any) error {
	if len(e.Data) == 0 {
		return errors.New("it has no data")
	}
	if err := json.Unmarshal(e.Data, into); err != nil {
		return fmt.Errorf("decode its data: %w", err)
	}
	return nil
}

// maxName bounds streams, types, keys and ids, which are indexed and, for a
// stream, part of a file's name in the broker.
const maxName = 200

// checkName holds a stream or a type to what every broker takes as a channel
// or subject: letters, digits, and . _ - inside.
func checkName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s is empty", what)
	}
	if len(name) > maxName {
		return fmt.Errorf("%s %.20q… is longer than %d bytes", what, name, maxName)
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		inside := i > 0 && i < len(name)-1 && (r == '.' || r == '_' || r == '-')
		if !letter && !inside || inside && r == '.' && name[i-1] == '.' {
			return fmt.Errorf("%s %q may have letters and digits, and single . _ - inside", what, name)
		}
	}
	return nil
}

func checkKey(key string) error {
	switch {
	case key == "":
		return errors.New("the key is empty")
	case len(key) > maxName:
		return fmt.Errorf("the key %.20q… is longer than %d bytes", key, maxName)
	case !utf8.ValidString(key) || strings.ContainsRune(key, 0):
		return fmt.Errorf("the key %q is not UTF-8 or has a NUL", key)
	}
	return nil
}
