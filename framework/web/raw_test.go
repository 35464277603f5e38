package web_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/turnstile-go/turnstile/framework/web"
)

// TestRawBody: an operation may take the bytes as they came, under the rules of all bodies but those for what is in them.
func TestRawBody(t *testing.T) {
	h := newHats(t, web.Config{BodyLimit: 100})
	var got string
	huma.Register(h.API(), huma.Operation{
		OperationID: "hook", Method: http.MethodPost, Path: "/api/hats/hook", DefaultStatus: http.StatusOK,
	}, func(_ context.Context, in *struct {
		RawBody []byte `contentType:"application/json"`
	}) (*struct{}, error) {
		got = string(in.RawBody)
		return nil, nil
	})
	send := func(body, contentType string) int {
		t.Helper()
		got = ""
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/api/hats/hook", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", contentType)
		return h.do(t, r).StatusCode
	}
	for _, body := range []string{`{ "b":1,	"a" : 1.0 }` + "\n", `{"a":1,"a":2}`, `[]`} {
		if status := send(body, "application/json; charset=utf-8"); status != http.StatusOK || got != body {
			t.Errorf("%q: %d, and the handler got %q", body, status, got)
		}
	}
	for _, test := range []struct {
		body, contentType string
		want              int
	}{
		{`{}`, "text/plain", http.StatusUnsupportedMediaType},
		{`{"a":"` + strings.Repeat("x", 100) + `"}`, "application/json", http.StatusRequestEntityTooLarge},
	} {
		if status := send(test.body, test.contentType); status != test.want || got != "" {
			t.Errorf("%q as %s: %d, want %d; the handler got %q", test.body, test.contentType, status, test.want, got)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/api/hats/openapi.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := h.do(t, r); a.StatusCode != http.StatusOK || !strings.Contains(a.body, `"/api/hats/hook"`) {
		t.Errorf("its document: %d", a.StatusCode)
	}
}
