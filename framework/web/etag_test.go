package web_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/turnstile-go/turnstile/framework/web"
)

// newVersioned serves one thing, which is at version 3, and a list of them.
func newVersioned(t *testing.T) *web.Server {
	t.Helper()
	s := web.NewServer("hats", web.Config{}, nil, nil, nil)
	huma.Register(s.API(), huma.Operation{OperationID: "get-hat", Method: http.MethodGet, Path: "/api/hats/{id}"},
		func(_ context.Context, in *struct {
			ID string `path:"id"`
		}) (*web.Versioned[hat], error) {
			if in.ID != "7" {
				return nil, web.NotFound("Hat not found")
			}
			return &web.Versioned[hat]{ETag: web.ETag(3), Body: hat{Title: "bowler"}}, nil
		})
	huma.Register(s.API(), huma.Operation{
		OperationID: "drop-hat", Method: http.MethodDelete, Path: "/api/hats/{id}", DefaultStatus: http.StatusNoContent,
	}, func(_ context.Context, in *struct {
		ID string `path:"id"`
		web.Precondition
	}) (*struct{}, error) {
		if !in.Holds(3) {
			return nil, web.PreconditionFailed("The hat was changed meanwhile")
		}
		return nil, nil
	})
	huma.Register(s.API(), huma.Operation{OperationID: "list-hats", Method: http.MethodGet, Path: "/api/hats"},
		func(context.Context, *struct{}) (*struct{ Body []hat }, error) { return &struct{ Body []hat }{}, nil })
	return s
}

func TestIfNoneMatch(t *testing.T) {
	t.Parallel()
	s := newVersioned(t)
	for _, test := range []struct {
		method, path string
		known        []string
		status       int
	}{
		{"GET", "/api/hats/7", nil, 200},
		{"GET", "/api/hats/7", []string{`"3"`}, 304},
		{"HEAD", "/api/hats/7", []string{`"3"`}, 304},
		{"GET", "/api/hats/7/", []string{`W/"3"`}, 304},
		{"GET", "/api/hats/7", []string{`"1", "2",W/"3"`}, 304},
		{"GET", "/api/hats/7", []string{`"1"`, `"3"`}, 304},
		{"GET", "/api/hats/7", []string{`*`}, 304},
		{"GET", "/api/hats/7", []string{`"2"`}, 200},
		{"GET", "/api/hats/7", []string{`3`}, 200},
		{"GET", "/api/hats/7", []string{``}, 200},
		{"GET", "/api/hats/8", []string{`*`}, 404},
		{"GET", "/api/hats", []string{`*`}, 200}, // a list has no version
		{"DELETE", "/api/hats/7", []string{`"3"`}, 204},
	} {
		r := httptest.NewRequest(test.method, test.path, nil)
		r.Header["If-None-Match"] = test.known
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != test.status {
			t.Errorf("%s %s, If-None-Match: %q: %d, want %d", test.method, test.path, test.known, w.Code, test.status)
		}
		if w.Code == http.StatusNotModified &&
			(w.Body.Len() > 0 || w.Header().Get("ETag") != `"3"` || w.Header().Get("Content-Type") != "") {
			t.Errorf("%s %s: not modified, with %q and %v", test.method, test.path, w.Body, w.Header())
		}
	}
}

func TestPrecondition(t *testing.T) {
	t.Parallel()
	s := newVersioned(t)
	for _, test := range []struct {
		lines  []string
		status int
	}{
		{nil, 204}, {[]string{""}, 204}, {[]string{"*"}, 204}, {[]string{`"3"`}, 204}, {[]string{`"1"`, `"3"`}, 204},
		{[]string{`"2"`}, 412}, {[]string{`W/"3"`}, 412}, {[]string{`"1"`, `"2"`}, 412}, {[]string{"3"}, 412},
	} {
		r := httptest.NewRequest(http.MethodDelete, "/api/hats/7", nil)
		r.Header["If-Match"] = test.lines
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != test.status {
			t.Errorf("If-Match: %q: %d, want %d", test.lines, w.Code, test.status)
		}
	}
}

// Over a connection, HEAD is GET without the body, down to its length.
func TestHead(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newVersioned(t))
	defer server.Close()
	for _, path := range []string{"/api/hats/7", "/api/hats", "/api/hats/8", "/api/hats/openapi.json", "/api/hats/docs"} {
		answers := map[string]*http.Response{}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			a, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body := new(strings.Builder)
			if err := a.Write(body); err != nil {
				t.Fatal(err)
			}
			answers[method] = a
		}
		get, head := answers[http.MethodGet], answers[http.MethodHead]
		if get.StatusCode != head.StatusCode || get.ContentLength != head.ContentLength && get.ContentLength < 2000 {
			t.Errorf("%s: HEAD is answered %d, %d bytes; GET %d, %d bytes",
				path, head.StatusCode, head.ContentLength, get.StatusCode, get.ContentLength)
		}
		for _, name := range []string{"Content-Type", "Etag", "Cache-Control"} {
			if get.Header.Get(name) != head.Header.Get(name) {
				t.Errorf("%s: %s is %q for HEAD, %q for GET", path, name, head.Header.Get(name), get.Header.Get(name))
			}
		}
	}
}
