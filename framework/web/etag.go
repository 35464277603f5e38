package web

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// ETag returns the entity tag of a thing's version, for the ETag header. Where an answer has one, a GET with If-None-Match is
// answered with 304 when nothing has changed.
func ETag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// Versioned is what an operation answers with a thing that has a version.
type Versioned[T any] struct {
	ETag string `header:"ETag"`
	Body T
}

// Created is what an operation answers that has created such a thing. Location is its address, such as /api/hats/7.
type Created[T any] struct {
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     T
}

// Precondition is what an operation that changes or deletes a versioned thing takes from the caller: embed it in the
// operation's input.
type Precondition struct {
	IfMatch string `header:"If-Match" doc:"Only a version with one of these ETags is meant" example:"\"0\""`
}

// Resolve takes all the lines of the header together. Huma calls it.
func (p *Precondition) Resolve(ctx huma.Context) []error {
	var lines []string
	ctx.EachHeader(func(name, value string) {
		if http.CanonicalHeaderKey(name) == "If-Match" {
			lines = append(lines, value)
		}
	})
	p.IfMatch = strings.Join(lines, ", ")
	return nil
}

// Holds reports whether the thing is, at the given version, what the caller means: if not, the answer is [PreconditionFailed].
// Without the header, and with *, any version is. Tags are compared strongly (RFC 9110, section 13.1.1).
func (p Precondition) Holds(version int64) bool {
	return strings.TrimSpace(p.IfMatch) == "" || matches(p.IfMatch, func(tag string) bool { return tag == ETag(version) })
}

// matches reports whether one of the entity tags in the value of a header is the right one. The tag * always is; what is not
// a tag ends the list.
func matches(header string, right func(tag string) bool) bool {
	rest := strings.TrimSpace(header)
	if rest == "*" {
		return true
	}
	for rest != "" {
		rest = strings.TrimLeft(rest, ", \t")
		start := strings.IndexByte(rest, '"')
		if start < 0 || start > 0 && rest[:start] != "W/" {
			return false
		}
		length := strings.IndexByte(rest[start+1:], '"')
		if length < 0 {
			return false
		}
		end := start + 1 + length + 1
		if right(rest[:end]) {
			return true
		}
		rest = strings.TrimSpace(rest[end:])
	}
	return false
}

// conditional answers a GET with 304 and no body if the caller's If-None-Match has the answer's ETag, compared weakly (RFC
// 9110, section 13.1.2).
func conditional(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if known := r.Header.Values("If-None-Match"); r.Method == http.MethodGet && len(known) > 0 {
			w = &conditionalWriter{ResponseWriter: w, known: strings.Join(known, ", ")}
		}
		next.ServeHTTP(w, r)
	})
}

type conditionalWriter struct {
	http.ResponseWriter
	known     string // what the caller has
	begun     bool
	unchanged bool
}

func (w *conditionalWriter) WriteHeader(status int) {
	w.begun = true
	tag := w.Header().Get("ETag")
	if status == http.StatusOK && tag != "" && matches(w.known, func(t string) bool {
		return strings.TrimPrefix(t, "W/") == strings.TrimPrefix(tag, "W/")
	}) {
		w.unchanged = true
		status = http.StatusNotModified
		for _, name := range []string{"Content-Type", "Content-Length"} {
			w.Header().Del(name)
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *conditionalWriter) Write(b []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.unchanged {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController.
func (w *conditionalWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// documentConditional says of a GET whose answer has an ETag that it knows If-None-Match.
func documentConditional(op *huma.Operation) {
	ok := op.Responses[strconv.Itoa(http.StatusOK)]
	if op.Method != http.MethodGet || ok == nil || ok.Headers["ETag"] == nil {
		return
	}
	op.Parameters = append(op.Parameters, &huma.Param{
		Name: "If-None-Match", In: "header", Description: "The ETag that is known already: if it still is the one, the answer is 304",
		Schema: &huma.Schema{Type: huma.TypeString}, Example: `"0"`,
	})
	op.Responses[strconv.Itoa(http.StatusNotModified)] = &huma.Response{
		Description: "Nothing has changed", Headers: map[string]*huma.Param{"ETag": ok.Headers["ETag"]},
	}
}
