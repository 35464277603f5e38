package fuzz

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const things = `{"openapi": "3.1.0", "paths": {"/api/things/{id}": {"put": {
	"parameters": [{"name": "id", "in": "path", "schema": {"type": "string"}},
		{"name": "limit", "in": "query", "schema": {"type": "integer"}}],
	"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
	"responses": {
		"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
		"422": {"content": {"application/problem+json": {"schema": {"type": "object"}}}},
		"503": {"content": {"application/problem+json": {"schema": {"type": "object"}}}},
		"default": {"content": {"application/problem+json": {"schema": {"type": "object"}}}}
	},
	"security": [{"bearer": []}]
}}}, "components": {"schemas": {"Thing": {"type": "object", "required": ["id", "list"], "properties": {
	"id": {"type": "string"}, "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}}
}}}}}`

func thing(t *testing.T) *operation {
	t.Helper()
	operations, err := parse("http://things.example/openapi.json", []byte(things))
	if err != nil || len(operations) != 1 {
		t.Fatalf("%d operations, %v", len(operations), err)
	}
	operations[0].addr = "127.0.0.1:1"
	return operations[0]
}

// TestLast: whatever a query says, it is not the id of what was deleted.
func TestLast(t *testing.T) {
	for target, want := range map[string]string{
		"/api/things/7": "7", "/api/things/7?/x=/8": "7", "/api/things/mine?x": "mine", "/api/things/": "", "*": "*",
	} {
		if got := (&request{target: target}).last(); got != want {
			t.Errorf("%s ends with %q, want %q", target, got, want)
		}
	}
}

// TestJudge has every rule broken.
func TestJudge(t *testing.T) {
	o := thing(t)
	const good = `{"id": "a", "list": [{"n": 1}]}`
	refused := func(members string) string {
		return `{"type": "about:blank", "title": "No", "status": 422, "detail": "No", "instance": "/x"` + members + `}`
	}
	for name, c := range map[string]struct {
		status    int
		media     string
		text      string
		anonymous bool
		slow      bool
		want      string // "" for nothing wrong
	}{
		"a success":                {200, "application/json", good, false, false, ""},
		"a refusal":                {422, "application/problem+json", refused(`, "errors": [{"message": "No"}]`), true, false, ""},
		"no session":               {200, "application/json", good, true, false, "without a session"},
		"another type":             {200, "application/json", `{"id": 1, "list": []}`, false, false, "not what the document says"},
		"a member that is missing": {200, "application/json", `{"id": "a"}`, false, false, "not what the document says"},
		"a member too many": {200, "application/json", `{"id": "a", "list": [], "hash": "x"}`, false, false,
			"the member /hash"},
		"one deeper": {200, "application/json", `{"id": "a", "list": [{"m": 1}]}`, false, false,
			"the member /list/0/m"},
		"no JSON":            {200, "application/json", `{`, false, false, "not JSON"},
		"another media type": {200, "text/html", good, false, false, "is not documented for 200"},
		"another status":     {201, "application/json", good, false, false, "201 is not documented"},
		"an error that is not listed": {409, "application/problem+json",
			strings.ReplaceAll(refused(`, "errors": [{"message": "No"}]`), "422", "409"), true, false, "409 is not documented"},
		"no problem":               {422, "application/json", `{}`, true, false, "and it is an error"},
		"a problem without errors": {422, "application/problem+json", refused(""), true, false, "no errors"},
		"an error inside":          {500, "application/problem+json", refused(""), true, false, "the status is 500"},
		"no Retry-After":           {503, "application/problem+json", refused(""), true, false, "Retry-After"},
		"SQL":                      {200, "application/json", `{"id": "SELECT id FROM things ", "list": []}`, false, false, "inside"},
		"a stack": {422, "application/problem+json", refused(`, "errors": [{"message": "at server.go:12"}]`), true,
			false, "inside"},
		"a library's words": {422, "application/problem+json", refused(`, "errors": [{"message": "invalid character 'x'"}]`),
			true, false, "inside"},
		"a long time": {200, "application/json", good, false, true, "it took"},
	} {
		r := &request{operation: o, method: o.method, target: "/api/things/1", caller: &user{}}
		if c.anonymous {
			r.caller = nil
		}
		a := &answer{status: c.status, header: http.Header{"Content-Type": {c.media}}, text: c.text}
		if c.slow {
			a.took = slow + time.Second
		}
		wrong := judge(r, a)
		found := slices.ContainsFunc(wrong, func(what string) bool { return strings.Contains(what, c.want) })
		if c.want == "" && len(wrong) > 0 || c.want != "" && !found {
			t.Errorf("%s: %q, want %q", name, wrong, c.want)
		}
	}
}

// TestNothingSentLooksLikeALeak has to hold, because answers may echo it.
func TestNothingSentLooksLikeALeak(t *testing.T) {
	for _, text := range slices.Concat(texts, values) {
		if found := leaks.FindString(text); found != "" {
			t.Errorf("%q looks like a leak: %q", shorten(text), found)
		}
	}
}

// TestSeed has requests be the same for the same seed, and reach what they should.
func TestSeed(t *testing.T) {
	o := thing(t)
	sent := func(seed uint64) (all []string) {
		g := &generator{
			Rand: rand.New(rand.NewPCG(seed, 0)), ids: map[string][]string{}, keys: []string{"k"},
			users: []*user{{token: "a.b.cdefghijklmnop"}},
		}
		for range 5000 {
			all = append(all, string(g.request(o).bytes()))
		}
		return all
	}
	one, again, other := sent(1), sent(1), sent(2)
	if !slices.Equal(one, again) || slices.Equal(one, other) {
		t.Error("the seed does not decide what is sent")
	}
	for _, what := range []string{
		"PUT /api/things/", "?limit=", "Transfer-Encoding: chunked", "Content-Length: 99999999999999999999", "HTTP/2.0\r\n",
		`"ID":`, `"list":[`, "session=a.b.",
		"Bearer a.b.", "eyJhbGciOiJub25lIn0", "%FF", "\x00", "GET /api/nothing",
	} {
		if !slices.ContainsFunc(one, func(s string) bool { return strings.Contains(s, what) }) {
			t.Errorf("nothing in 5000 requests has %q", what)
		}
	}
}
