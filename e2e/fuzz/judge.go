package fuzz

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// leaks is what nobody is to be told: where the code is, what it is written in, what it asks of its database. Nothing that
// the generator sends looks like it, so that an echo is no leak.
var leaks = regexp.MustCompile(strings.Join([]string{
	`\w\.go\b`, `goroutine`, `runtime error`, `(?i)\bpanic`, `nil pointer`, `0xc0[0-9a-f]{8}`, `/(work|home|root|tmp|usr)/`,
	`(?i)\b(pgx|pgconn|postgres|sqlite|modernc|sqlstate|goose)`, `(?i)\bsql:`,
	`(?i)(select .* from|insert into|update \w+ set|delete from) `,
	`(?i)(constraint|relation|column|syntax error|deadlock|event_outbox|event_sequence|sandbox_charges)\b`,
	`(?i)\b(json|jsontext|strconv|url|mime|http|net|tls|huma|echo|jwt|uuid|base64|context):`, `github\.com|golang\.org`,
	`(?i)unmarshal|invalid character|struct field`,
	`context (deadline|canceled)`, `dial tcp`, `argon2`, `(?i)nats`, `password_?hash`, `\$argon`, `-----BEGIN`, `"d":"`,
}, "|"))

// slow is how long nothing may take, on a machine that has other things to do, too.
const slow = 20 * time.Second

// judge returns what is wrong with an answer.
func judge(r *request, a *answer) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	byServer := r.twisted && !strings.Contains(a.header.Get("Content-Type"), "json") // refused before any service saw it
	switch {
	case a.status >= 500 && !(byServer && (a.status == http.StatusNotImplemented ||
		a.status == http.StatusHTTPVersionNotSupported)):
		say("the status is %d", a.status)
	case a.status < 200:
		say("the status is %d", a.status)
	}
	if a.took > slow {
		say("it took %v", a.took.Round(time.Millisecond))
	}
	if found := leaks.FindString(a.text); found != "" && !aboutItself(r) {
		say("it tells what is inside: %q", found)
	}
	for name, values := range a.header {
		opaque := name == "Set-Cookie" || name == "Link" // tokens and cursors, in which letters come by chance
		if strings.HasPrefix(name, "X-Injected") || !opaque && slices.ContainsFunc(values, leaks.MatchString) {
			say("the header %s is %q", name, values)
		}
	}
	if a.status >= 400 && r.method != http.MethodHead && !byServer {
		wrong = append(wrong, problem(r, a)...)
	}
	if r.twisted || a.status >= 500 {
		return wrong
	}
	o := r.operation
	if a.status < 300 && o.session && r.caller == nil && !r.unsure {
		say("it was done without a session")
	}
	documented, ok := o.answer(a.status)
	if !ok {
		say("the status %d is not documented", a.status)
		return wrong
	}
	if a.text == "" && (r.method == http.MethodHead || a.status == http.StatusNoContent || a.status == http.StatusNotModified) {
		return wrong
	}
	media, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	s := documented[media]
	if err != nil || s == nil {
		say("the Content-Type %q is not documented for %d", a.header.Get("Content-Type"), a.status)
		return wrong
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(a.text))
	if err != nil {
		say("it is not JSON: %v", err)
		return wrong
	}
	if err := s.Validate(v); err != nil {
		say("it is not what the document says of %d: %v", a.status, err)
	}
	for _, name := range unknown(s, v, "") {
		say("the document does not have the member %s", name)
	}
	return wrong
}

// aboutItself reports whether the answer is text about the API itself.
func aboutItself(r *request) bool {
	return strings.Contains(r.target, "openapi.json") || strings.Contains(r.target, "/docs")
}

// problem returns what an answer lacks to be an RFC 9457 problem with errors.
func problem(r *request, a *answer) (wrong []string) {
	if media := a.header.Get("Content-Type"); media != "application/problem+json" {
		return []string{fmt.Sprintf("its Content-Type is %q, and it is an error", media)}
	}
	var p struct {
		Type, Title, Detail, Instance string
		Status                        int
		Errors                        []struct{ Message string }
	}
	if err := json.Unmarshal([]byte(a.text), &p); err != nil {
		return []string{"the problem is no JSON: " + err.Error()}
	}
	if p.Status != a.status || p.Type == "" || p.Title == "" || p.Detail == "" || p.Instance == "" && !r.twisted { // it has a path
		wrong = append(wrong, "the problem lacks a type, a title, a detail, an instance, or its own status")
	}
	if len(p.Errors) == 0 || p.Errors[0].Message == "" {
		wrong = append(wrong, "the problem has no errors")
	}
	if a.status == http.StatusMethodNotAllowed && a.header.Get("Allow") == "" {
		wrong = append(wrong, "there is no Allow")
	}
	if (a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable) && a.header.Get("Retry-After") == "" {
		wrong = append(wrong, "there is no Retry-After")
	}
	return wrong
}

// unknown returns the members of v that its schema does not know, though the document lets there be others.
func unknown(s *jsonschema.Schema, v any, at string) (names []string) {
	for s.Ref != nil {
		s = s.Ref
	}
	switch v := v.(type) {
	case map[string]any:
		if len(s.Properties) == 0 {
			return nil // it says nothing of them
		}
		for name, value := range v {
			if of := s.Properties[name]; of != nil {
				names = append(names, unknown(of, value, at+"/"+name)...)
			} else if name != "$schema" {
				names = append(names, at+"/"+name)
			}
		}
	case []any:
		items := s.Items2020
		if items == nil {
			return nil
		}
		for _, value := range v {
			names = append(names, unknown(items, value, at+"/0")...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
