package web_test

import (
	"context"
	"encoding/json"
	"html"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/framework/web/session/sessiontest"
)

// The API whose document is looked at sells caps.

type newCap struct {
	Title string `json:"title" minLength:"1" example:"Ann's cap & co."`
}

func (c newCap) Validate() []web.Field {
	if c.Title == "" {
		return []web.Field{{Name: "title", Message: "Title is required"}}
	}
	return nil
}

type capOnWire struct {
	ID    string `json:"id" example:"7"`
	Title string `json:"title" example:"Ann's cap & co."`
}

type capOutput struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Body      capOnWire
}

func newCaps(t *testing.T) *hats {
	t.Helper()
	h := &hats{issuer: sessiontest.New(t)}
	h.Server = web.NewServer("caps", web.Config{BodyLimit: 100}, nil, nil, nil)
	h.Authenticate(session.NewVerifier(h.issuer.Config, nil, nil))
	huma.Register(h.API(), huma.Operation{
		OperationID: "change-cap", Method: http.MethodPut, Path: "/api/caps/{id}", Security: session.Optional,
		Responses: web.Problems(web.Conflict("The cap is taken"), web.Conflict("The cap is lost")),
	}, func(_ context.Context, in *struct {
		ID   string `path:"id" example:"7"`
		Body newCap
	}) (*capOutput, error) {
		return &capOutput{Body: capOnWire{ID: in.ID, Title: in.Body.Title}}, nil
	})
	huma.Register(h.API(), huma.Operation{
		OperationID: "my-caps", Method: http.MethodGet, Path: "/api/caps/mine", Security: session.Required,
	}, func(context.Context, *struct{ web.Page }) (*web.Listing[capOnWire], error) {
		return &web.Listing[capOnWire]{}, nil
	})
	huma.Register(h.API(), huma.Operation{
		OperationID: "list-caps", Method: http.MethodGet, Path: "/api/caps",
	}, func(context.Context, *struct{ web.Page }) (*web.Listing[capOnWire], error) {
		return &web.Listing[capOnWire]{}, nil
	})
	return h
}

// answersOf reads from the document what an operation answers: the examples of each status.
func answersOf(t *testing.T, h *hats, method, path string) map[string][]web.Problem {
	t.Helper()
	var doc struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct {
				Content map[string]struct {
					Examples map[string]struct{ Value web.Problem }
				}
			}
		}
	}
	a := h.do(t, httptest.NewRequest(http.MethodGet, "/api/caps/openapi.json", nil))
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Fatal(err)
	}
	answers := map[string][]web.Problem{}
	for status, r := range doc.Paths[path][strings.ToLower(method)].Responses {
		answers[status] = nil
		for _, example := range r.Content["application/problem+json"].Examples {
			answers[status] = append(answers[status], example.Value)
		}
	}
	return answers
}

// TestErrorsAreDocumentedAsAnswered has every error that the shared rules make answered, and looks for it in the document.
func TestErrorsAreDocumentedAsAnswered(t *testing.T) {
	h := newCaps(t)
	foreign := func(r *http.Request) {
		r.AddCookie(&http.Cookie{Name: session.Cookie, Value: "x"})
		r.Header.Set("Sec-Fetch-Site", "cross-site")
	}
	for name, test := range map[string]struct {
		method, target, path, body string
		change                     func(*http.Request)
		status                     int
	}{
		"no JSON":      {"PUT", "/api/caps/7", "/api/caps/{id}", "{", nil, 400},
		"nothing":      {"PUT", "/api/caps/7", "/api/caps/{id}", "{}", nil, 422},
		"too large":    {"PUT", "/api/caps/7", "/api/caps/{id}", `{"title":"` + strings.Repeat("x", 100) + `"}`, nil, 413},
		"not said":     {"PUT", "/api/caps/7", "/api/caps/{id}", "{}", func(r *http.Request) { r.Header.Del("Content-Type") }, 415},
		"other origin": {"PUT", "/api/caps/7", "/api/caps/{id}", "{}", foreign, 403},
		"no session":   {"GET", "/api/caps/mine", "/api/caps/mine", "", nil, 401},
		"bad cursor":   {"GET", "/api/caps?cursor=x", "/api/caps", "", nil, 422},
		"bad query":    {"GET", "/api/caps?limit=%zz", "/api/caps", "", nil, 422},
		"no text":      {"GET", "/api/caps?cursor=%ff", "/api/caps", "", nil, 422},
		"twice":        {"GET", "/api/caps?limit=1&limit=2", "/api/caps", "", nil, 422},
		"empty":        {"GET", "/api/caps?limit=", "/api/caps", "", nil, 422},
	} {
		r := httptest.NewRequest(test.method, test.target, strings.NewReader(test.body))
		r.Header.Set("Content-Type", "application/json")
		if test.change != nil {
			test.change(r)
		}
		a := h.do(t, r)
		if a.StatusCode != test.status {
			t.Errorf("%s: %d, want %d: %s", name, a.StatusCode, test.status, a.body)
			continue
		}
		documented := answersOf(t, h, test.method, test.path)[strconv.Itoa(test.status)]
		if !slices.ContainsFunc(documented, func(p web.Problem) bool {
			return p.Title == a.problem.Title && p.Status == a.StatusCode && slices.Equal(p.Errors, a.problem.Errors)
		}) {
			t.Errorf("%s: it is not documented that the answer is %s, but\n%+v", name, a.body, documented)
		}
	}
	own := answersOf(t, h, "PUT", "/api/caps/{id}")["409"]
	if len(own) != 2 || own[0].Instance != "/api/caps/7" {
		t.Errorf("the operation's own errors: %+v", own)
	}
	if _, there := answersOf(t, h, "PUT", "/api/caps/{id}")["401"]; there {
		t.Error("an operation that can do without a session has 401")
	}
}

// TestCommands runs the commands on the page.
func TestCommands(t *testing.T) {
	for _, program := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("there is no %s", program)
		}
	}
	h := newCaps(t)
	server := httptest.NewServer(h)
	defer server.Close()
	r := httptest.NewRequest(http.MethodGet, server.URL+"/api/caps/docs", nil)
	page := h.do(t, r).body
	commands := regexp.MustCompile(`<pre class="command"><code>(.*?)</code>`).FindAllStringSubmatch(page, -1)
	if len(commands) != 3 {
		t.Fatalf("%d commands", len(commands))
	}
	want := map[string]string{"/api/caps'": "HTTP/1.1 200 OK", "/api/caps/7'": `{"id":"7","title":"Ann's cap & co."}`,
		"/api/caps/mine'": "HTTP/1.1 401 Unauthorized"} // nobody has signed in
	for _, match := range commands {
		command := html.UnescapeString(match[1])
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir = t.TempDir()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		for path, answer := range want {
			if strings.Contains(command, path) && !strings.Contains(string(out), answer) {
				t.Errorf("%s\nanswered %s\nwant %s", command, out, answer)
			}
		}
	}
	for text, there := range map[string]bool{
		"curl -i -c cookies.txt -b cookies.txt -X PUT": true, "/mine' --json": false, "curl -i -b cookies.txt": true,
	} {
		if strings.Contains(html.UnescapeString(page), text) != there {
			t.Errorf("the page has %q: %t", text, !there)
		}
	}
}

// TestCommandsAreOfThisHost: what is pasted into a shell is not what a request's Host says, whatever that is.
func TestCommandsAreOfThisHost(t *testing.T) {
	h := newCaps(t)
	for host, want := range map[string]string{
		"shop.example.com:8080": "http://shop.example.com:8080/api/caps", "[::1]:80": "http://[::1]:80/api/caps",
		"x'; rm -rf ~; '": "http://localhost:8080/api/caps", `"><script>`: "http://localhost:8080/api/caps",
	} {
		r := httptest.NewRequest(http.MethodGet, "/api/caps/docs", nil)
		r.Host = host
		page := h.do(t, r).body
		if !strings.Contains(html.UnescapeString(page), "'"+want+"'") || strings.Contains(page, "rm -rf") || strings.Contains(page, "<script") {
			t.Errorf("for the host %s, the page does not have %s", host, want)
		}
	}
}
