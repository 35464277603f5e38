package web_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"

	"github.com/turnstile-go/turnstile/framework/internal/telemetry"
	"github.com/turnstile-go/turnstile/framework/web"
)

type benchHat struct {
	ID    string `json:"id"`
	Size  int    `json:"size"`
	Color string `json:"color"`
}

// BenchmarkRequest measures what a request costs that does nothing, beside the same with Echo alone: without the network,
// so that it is what this package does and what it is made of.
func BenchmarkRequest(b *testing.B) {
	t, err := telemetry.New(b.Context(), telemetry.Config{Service: "hats"})
	if err != nil {
		b.Fatal(err)
	}
	defer t.Shutdown(context.Background())
	s := web.NewServer("hats", web.Config{}, slog.New(slog.DiscardHandler), t.Tracer, t.Meter)
	type input struct {
		ID string `path:"id"`
	}
	huma.Register(s.API(), huma.Operation{OperationID: "get-hat", Method: http.MethodGet, Path: "/api/hats/{id}"},
		func(_ context.Context, in *input) (*web.Versioned[benchHat], error) {
			return &web.Versioned[benchHat]{ETag: web.ETag(1), Body: benchHat{ID: in.ID, Size: 58, Color: "black"}}, nil
		})
	bare := echo.New()
	bare.GET("/api/hats/:id", func(c echo.Context) error {
		return c.JSON(http.StatusOK, benchHat{ID: c.Param("id"), Size: 58, Color: "black"})
	})
	for name, handler := range map[string]http.Handler{"web": s, "echo": bare} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/api/hats/7", nil)
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}
