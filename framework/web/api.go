package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humaecho"
	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"
)

// api is Huma's API with the shared rules built in: what it adds is done when an operation is registered and in
// middleware, so that huma.Register is used as it is documented.
type api struct {
	huma.API
	server  *Server
	problem *huma.Schema
	bodies  map[*huma.Operation]reflect.Type // of operations that take one; nil where the handler takes the bytes
}

func newAPI(s *Server, e *echo.Echo) *api {
	useProblems()
	config := huma.Config{OpenAPI: &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info:    &huma.Info{Title: strings.ToUpper(s.name[:1]) + s.name[1:], Version: "1"},
		Servers: []*huma.Server{{URL: "/", Description: "Where this document comes from"}},
	}}
	config.AllowAdditionalPropertiesByDefault = true
	a := &api{API: humaecho.New(e, config), server: s, bodies: map[*huma.Operation]reflect.Type{}}
	a.problem = a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	a.UseMiddleware(a.admit)
	return a
}

// admit is what stands between the route and the handler: first the session, then what was sent.
func (a *api) admit(ctx huma.Context, next func(huma.Context)) {
	c := humaecho.Unwrap(ctx)
	op := ctx.Operation()
	if needsSession(op) {
		if err := a.server.auth.Require(ctx.Context()); err != nil {
			WriteProblem(c.Response(), c.Request(), a.server.problem(ctx.Context(), err))
			return
		}
	}
	if p := checkAddress(ctx.URL(), op); p != nil {
		WriteProblem(c.Response(), c.Request(), p)
		return
	}
	var body []byte
	var p *Problem
	if t, ok := a.bodies[op]; ok {
		if body, p = a.server.readBody(c.Response(), c.Request()); p == nil && t != nil {
			p = checkBody(body, t)
		}
		ctx = checkedContext{ctx, body}
	}
	var repeatable string
	if creates(op) {
		var err error
		if repeatable, err = readIdempotencyKey(c.Request().Header); err != nil {
			p = p.andInvalid(Field{Name: idempotencyKey, Message: idempotencyKey + " " + err.Error()})
		}
	}
	switch {
	case p != nil:
		WriteProblem(c.Response(), c.Request(), p)
	case repeatable != "":
		a.server.attempt(ctx, repeatable, body, next)
	default:
		next(ctx)
	}
}

// needsSession reports whether op is for callers with a session only: its Security has no empty choice.
func needsSession(op *huma.Operation) bool {
	return len(op.Security) > 0 && !slices.ContainsFunc(op.Security, func(choice map[string][]string) bool { return len(choice) == 0 })
}

type humaContext huma.Context // another name, because the interface has a method called Context

// checkedContext hands on a body that was read before.
type checkedContext struct {
	humaContext
	body []byte
}

func (c checkedContext) BodyReader() io.Reader { return bytes.NewReader(c.body) }

// Unwrap lets humaecho.Unwrap find the router's context.
func (c checkedContext) Unwrap() huma.Context { return c.humaContext }

func (a *api) Negotiate(string) (string, error) { return "application/json", nil }

func (a *api) Marshal(w io.Writer, _ string, v any) error {
	data, err := encode(v)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

func (a *api) Unmarshal(_ string, data []byte, v any) error { return json.Unmarshal(data, v) }

// Transform completes a problem before it is written, including those that Huma's own constructors make.
func (a *api) Transform(ctx huma.Context, status string, v any) (any, error) {
	if model, ok := v.(*huma.ErrorModel); ok {
		v = a.server.problem(ctx.Context(), model)
	}
	if p, ok := v.(*Problem); ok {
		c := humaecho.Unwrap(ctx)
		ctx.SetHeader("Content-Type", p.ContentType(""))
		answer := p.complete(c.Response().Header(), c.Request())
		ctx.SetStatus(p.Status) // Huma sets the one that it knows after this, when the first one has been sent
		return answer, nil
	}
	return a.API.Transform(ctx, status, v)
}

func fieldsOf(details []*huma.ErrorDetail) []Field {
	var fields []Field
	for _, d := range details {
		if d == nil { // Huma makes it of an error that is nil
			continue
		}
		_, name, _ := strings.Cut(d.Location, ".")
		if name == "" {
			fields = append(fields, Field{Message: d.Message})
		} else {
			fields = append(fields, Field{Name: name, Message: name + ": " + d.Message})
		}
	}
	return fields
}

// useProblems makes Huma ask the Server that handles a request for the error that it writes. The hook is Huma's only way to
// see a handler's error as a value; requests to other Huma APIs in the process are left to the hook that was there.
var useProblems = sync.OnceFunc(func() {
	before := huma.NewErrorWithContext
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		x := exchangeOf(ctx.Context())
		if x == nil {
			return before(ctx, status, msg, errs...)
		}
		if status == http.StatusInternalServerError && len(errs) > 0 {
			return x.server.problem(ctx.Context(), errors.Join(errs...))
		}
		model := &huma.ErrorModel{Status: status, Detail: msg}
		for _, err := range errs {
			if err != nil {
				model.Add(err)
			}
		}
		return x.server.problem(ctx.Context(), model)
	}
})

// Authenticator tells a Server who calls. Package session has the one that services use.
type Authenticator interface {
	// Middleware runs around every request and notes its caller in the context.
	Middleware(next http.Handler) http.Handler
	// Require returns an error, normally a *Problem, unless the request's caller may use an operation with Security.
	Require(ctx context.Context) error
	// Caller returns the id of the request's caller, empty for one without a session.
	Caller(ctx context.Context) string
	// Trusts reports whether the pages of another origin, scheme://host, may use their visitors' sessions.
	Trusts(origin string) bool
	// SecuritySchemes documents how callers identify themselves.
	SecuritySchemes() map[string]*huma.SecurityScheme
}
