package web

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// normalize treats spellings of one address alike: HEAD is GET without a body, a slash at the end says nothing.
func (s *Server) normalize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trimmed := len(r.URL.Path) > 1 && strings.HasSuffix(r.URL.Path, "/")
		if trimmed || r.Method == http.MethodHead {
			q := *r
			u := *r.URL
			q.URL = &u
			if trimmed {
				u.Path = strings.TrimSuffix(u.Path, "/")
				u.RawPath = strings.TrimSuffix(u.RawPath, "/")
			}
			if q.Method == http.MethodHead {
				q.Method = http.MethodGet
			}
			r = &q
		}
		next.ServeHTTP(w, r)
	})
}

// route names the request's trace, metrics and log line after the route that was found, and answers for methods that an
// address does not have.
func route(e *echo.Echo) echo.MiddlewareFunc {
	fixed := sync.OnceValue(func() map[string]string { return fixedPaths(e.Routes()) }) // when every operation has been registered
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			allow, other := c.Get(echo.ContextKeyHeaderAllow).(string)
			if strings.Contains(c.Path(), ":") {
				// The router takes /hats/docs for /hats/:id if only that has the method. Nobody means it so.
				path := echo.GetPath(c.Request())
				if of, ok := fixed()[path]; ok {
					c.SetPath(path)
					allow, other = of, true
				}
			}
			nameAfter(c.Path(), c.Request())
			if other {
				return otherMethod(c, allow)
			}
			return next(c)
		}
	}
}

// fixedPaths returns the paths without parameters, and which methods each allows.
func fixedPaths(routes []*echo.Route) map[string]string {
	methods := map[string][]string{}
	for _, r := range routes {
		if !strings.Contains(r.Path, ":") {
			methods[r.Path] = append(methods[r.Path], r.Method)
		}
	}
	allow := map[string]string{}
	for path, of := range methods {
		slices.Sort(of)
		allow[path] = strings.Join(append([]string{http.MethodOptions}, of...), ", ") // as the router says it
	}
	return allow
}

// nameAfter names what is told of a request after its route, which is empty if there is none.
func nameAfter(path string, r *http.Request) {
	if path == "" {
		return
	}
	ctx := r.Context()
	attr := attribute.String("http.route", path)
	trace.SpanFromContext(ctx).SetName(r.Method + " " + path)
	trace.SpanFromContext(ctx).SetAttributes(attr)
	if labeler, ok := otelhttp.LabelerFromContext(ctx); ok {
		labeler.Add(attr)
	}
	if x := exchangeOf(ctx); x != nil {
		x.route = path
	}
}

// otherMethod answers a request for an address by a method that no operation there has: OPTIONS asks which there are.
func otherMethod(c echo.Context, allow string) error {
	methods := strings.Split(allow, ", ")
	if i := slices.Index(methods, http.MethodGet); i >= 0 {
		methods = slices.Insert(methods, i+1, http.MethodHead)
	}
	c.Response().Header().Set("Allow", strings.Join(methods, ", "))
	if c.Request().Method == http.MethodOptions {
		return c.NoContent(http.StatusNoContent)
	}
	WriteProblem(c.Response(), c.Request(), newProblem(http.StatusMethodNotAllowed, "This method is not allowed here"))
	return nil
}

// routeError answers what the router could not place.
func (s *Server) routeError(err error, c echo.Context) {
	p := nothingHere()
	if !errors.Is(err, echo.ErrNotFound) {
		p = s.problem(c.Request().Context(), err)
	}
	WriteProblem(c.Response(), c.Request(), p)
}

func nothingHere() *Problem { return NotFound("There is nothing at this address") }
