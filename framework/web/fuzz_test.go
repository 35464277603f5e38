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

// FuzzBody: whatever a body holds, it is the caller's fault or nobody's, and a
// handler sees only what is valid.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"title":"x","size":1}`, `{"title":null}`, `[{"size":1e400}]`, `{"size":1.0}`, `{"title":"\ud800"}`,
		`{"title":"\u0000","size":{}}`, "\xef\xbb\xbf{}", `{"a":{"b":[1,2,{"c":"d"}]},"a":1}`, `{"":1,"title":"/~0~1"}`,
	} {
		f.Add(seed)
	}
	s := web.NewServer("hats", web.Config{}, nil, nil, nil)
	huma.Register(s.API(), huma.Operation{OperationID: "create-hat", Method: http.MethodPost, Path: "/api/hats"},
		func(_ context.Context, in *struct{ Body newHat }) (*hatOutput, error) {
			if failures := in.Body.Validate(); failures != nil {
				f.Errorf("the handler was given %+v", in.Body)
			}
			return &hatOutput{}, nil
		})
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest(http.MethodPost, "/api/hats", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 400 && w.Code != 422 {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	})
}
