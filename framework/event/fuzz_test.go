package event

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Whatever a broker delivers, it is an event that the ledger can store or an
// error that says why not.
func FuzzDecodeEnvelope(f *testing.F) {
	draft, err := (&envelope{ID: "1", Source: "front", Type: "ping", Key: "a", Data: json.RawMessage(`{"key":"a"}`)}).draft()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seal(draft, 7, 1_700_000_000_000_000, 1_600_000_000_000_000))
	f.Add(seal(draft, 1, 1, 0))
	for _, s := range []string{
		"", "{}", "null", "[]", "\xff", `{"specversion":"1.0"}`,
		`{"specversion":"1.0","id":"x","type":"ping","subject":"a","sequence":"0"}`,
		`{"specversion":"1.0","id":"x","type":"a..b","subject":"a","sequence":"1"}`,
		`{"specversion":"1.0","id":"\u0000","type":"ping","subject":"\u0000","sequence":"9223372036854775807"}`,
		`{"specversion":"1.0","id":"x","type":"ping","subject":"\ud800","sequence":"1","time":"9999-12-31T23:59:59Z","data":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := decodeEnvelope("pings", body)
		if err != nil {
			if !utf8.ValidString(err.Error()) || strings.ContainsRune(err.Error(), 0) {
				t.Errorf("the error cannot be stored: %q", err)
			}
			return
		}
		if !utf8.Valid(body) || bytes.IndexByte(body, 0) >= 0 {
			t.Errorf("the body cannot be stored: %q", body)
		}
		if e.Sequence < 1 || e.Stream != "pings" || checkKey(e.Key) != nil || checkName("type", e.Type) != nil || e.ID == "" || len(e.ID) > maxName {
			t.Errorf("%q is taken as %+v", body, e)
		}
		for _, s := range []string{e.ID, e.Type, e.Key} {
			if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
				t.Errorf("%q cannot be stored", s)
			}
		}
		if len(e.Data) > 0 && !json.Valid(e.Data) {
			t.Errorf("the data %q is no JSON", e.Data)
		}
	})
}

// Data decodes into the event or is refused; nothing in it panics.
func FuzzDecodeData(f *testing.F) {
	for _, s := range []string{"", "null", `{"key":"a","value":1,"at":"2026-01-01T00:00:00Z"}`, `{"value":1e400}`, `{"list":[[[[]]]]}`, `"text"`, "[", `{"key":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var e struct {
			Key   string         `json:"key"`
			Value int64          `json:"value"`
			At    time.Time      `json:"at"`
			List  []any          `json:"list"`
			More  map[string]any `json:"more"`
		}
		if err := (&envelope{ID: "1", Type: "ping", Data: data}).decodeData(&e); err == nil && !json.Valid(data) {
			t.Errorf("%q was decoded", data)
		}
	})
}

// What Publish writes, a listener reads.
func FuzzSeal(f *testing.F) {
	f.Add("id", "front", "a", `{"key":"a"}`, int64(1), int64(1_700_000_000_000_000), int64(0))
	f.Add("id}", `so"urce`, "a}<&>\u2028", `{}`, int64(1)<<62, int64(1), int64(253402300799999999))
	f.Add("", "", "\x00", "null", int64(0), int64(-1), int64(-1))
	f.Fuzz(func(t *testing.T, id, source, key, data string, sequence, at, previous int64) {
		const most = 253402300799999999 // the end of the year 9999, in microseconds
		if !json.Valid([]byte(data)) || !utf8.ValidString(id+source) || id == "" || len(id) > maxName || strings.ContainsRune(id, 0) ||
			checkKey(key) != nil || sequence < 1 || at < 1 || at > most || previous < 0 || previous > most {
			t.Skip()
		}
		in := envelope{ID: id, Source: source, Type: "ping", Key: key, Data: json.RawMessage(data)}
		draft, err := in.draft()
		if err != nil {
			t.Skip()
		}
		body := seal(draft, sequence, at, previous)
		if len(body) > len(draft)+sealSize {
			t.Errorf("seal adds %d bytes", len(body)-len(draft))
		}
		out, err := decodeEnvelope("pings", body)
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if out.ID != id || out.Source != source || out.Key != key || out.Sequence != sequence || micros(out.Time) != at ||
			previous > 0 && micros(out.PreviousTime) != previous || previous == 0 && !out.PreviousTime.IsZero() {
			t.Errorf("%s came back as %+v", body, out)
		}
		var want bytes.Buffer
		if err := json.Compact(&want, []byte(data)); err != nil {
			t.Fatal(err)
		}
		var got, expected any
		if json.Unmarshal(out.Data, &got) == nil && json.Unmarshal(want.Bytes(), &expected) == nil {
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(expected)
			if string(a) != string(b) {
				t.Errorf("data %s came back as %s", data, out.Data)
			}
		}
	})
}
