package web

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
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
	bodies  map[string]reflect.Type // by method and path
}

func newAPI(s *Server, e *echo.Echo) *api {
	useProblems()
	config := huma.Config{OpenAPI: &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info:    &huma.Info{Title: strings.ToUpper(s.name[:1]) + s.name[1:], Version: "1"},
	}}
	config.AllowAdditionalPropertiesByDefault = true
	a := &api{API: humaecho.New(e, config), server: s, bodies: map[string]reflect.Type{}}
	a.problem = a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	a.UseMiddleware(a.admit)
	return a
}

// admit is what stands between the route and the handler: first the session, then the body.
func (a *api) admit(ctx huma.Context, next func(huma.Context)) {
	c := humaecho.Unwrap(ctx)
	op := ctx.Operation()
	if len(op.Security) > 0 {
		if err := a.server.auth.Require(ctx.Context()); err != nil {
			WriteProblem(c.Response(), c.Request(), a.server.problem(ctx.Context(), err))
			return
		}
	}
	t, ok := a.bodies[key(op)]
	if !ok {
		next(ctx)
		return
	}
	body, p := readBody(c.Response(), c.Request(), a.server.cfg.BodyLimit)
	if p == nil {
		p = checkBody(body, t)
	}
	if p != nil {
		WriteProblem(c.Response(), c.Request(), p)
		return
	}
	next(checkedContext{ctx, body})
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
		v = newProblem(model.Status, model.Detail, fieldsOf(model.Errors)...)
	}
	if p, ok := v.(*Problem); ok {
		c := humaecho.Unwrap(ctx)
		ctx.SetHeader("Content-Type", p.ContentType(""))
		return p.complete(c.Response().Header(), c.Request()), nil
	}
	return a.API.Transform(ctx, status, v)
}

func fieldsOf(details []*huma.ErrorDetail) []Field {
	var fields []Field
	for _, d := range details {
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
		s, ok := ctx.Context().Value(serverKey{}).(*Server)
		if !ok {
			return before(ctx, status, msg, errs...)
		}
		if status == http.StatusInternalServerError && len(errs) > 0 {
			return s.problem(ctx.Context(), errs[0])
		}
		var details []*huma.ErrorDetail
		for _, err := range errs {
			if d, ok := err.(huma.ErrorDetailer); ok {
				details = append(details, d.ErrorDetail())
			} else {
				details = append(details, &huma.ErrorDetail{Message: err.Error()})
			}
		}
		return newProblem(status, msg, fieldsOf(details)...)
	}
})

// DocumentOperation is called by huma.Register once for every operation.
func (a *api) DocumentOperation(op *huma.Operation) {
	s := a.server
	errors := []int{http.StatusTooManyRequests}
	if len(op.Security) > 0 {
		if s.auth == nil {
			panic("web: operation " + op.OperationID + " requires a session: call Authenticate before registering it")
		}
		errors = append(errors, http.StatusUnauthorized)
	}
	if op.RequestBody != nil {
		a.bodies[key(op)] = a.bodyType(op)
		op.SkipValidateBody = true
		op.MaxBodyBytes = -1 // limited before
		op.BodyReadTimeout = 0
		errors = append(errors, http.StatusBadRequest, http.StatusRequestEntityTooLarge,
			http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity)
	} else if slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.In == "query" }) {
		errors = append(errors, http.StatusUnprocessableEntity)
	}
	for _, status := range append(errors, op.Errors...) {
		a.documentProblem(op, strconv.Itoa(status), http.StatusText(status))
	}
	a.documentProblem(op, "default", "Any other error")
	s.operations = append(s.operations, operation{
		Method: op.Method, Path: op.Path, ID: op.OperationID, Summary: op.Summary, Session: len(op.Security) > 0,
	})
	if !op.Hidden {
		a.OpenAPI().AddOperation(op)
	}
}

func key(op *huma.Operation) string { return op.Method + " " + op.Path }

func (a *api) documentProblem(op *huma.Operation, status, description string) {
	op.Responses[status] = &huma.Response{
		Description: description,
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: a.problem}},
	}
}

func (a *api) bodyType(op *huma.Operation) reflect.Type {
	if media := op.RequestBody.Content["application/json"]; media != nil && media.Schema != nil && media.Schema.Ref != "" {
		if t := a.OpenAPI().Components.Schemas.TypeFromRef(media.Schema.Ref); t != nil && t.Kind() == reflect.Struct {
			return t
		}
	}
	panic("web: operation " + op.OperationID + ": its Body must be a struct")
}

// finish makes the document say what Huma cannot know: that its own error types are not used, and that no list is null.
func (a *api) finish() {
	api := a.OpenAPI()
	schemas := api.Components.Schemas.Map()
	maps.DeleteFunc(schemas, func(name string, _ *huma.Schema) bool {
		return name == "ErrorModel" || name == "ErrorDetail"
	})
	for _, schema := range schemas {
		for _, property := range schema.Properties {
			neverNull(property)
		}
	}
	for _, item := range api.Paths {
		for _, op := range operationsOf(item) {
			for _, response := range op.Responses {
				for _, media := range response.Content {
					neverNull(media.Schema)
				}
			}
		}
	}
}

func neverNull(s *huma.Schema) {
	if s != nil && s.Type == huma.TypeArray {
		s.Nullable = false
		neverNull(s.Items)
	}
}

// operationsOf lists the operations of one path.
func operationsOf(item *huma.PathItem) []*huma.Operation {
	return slices.DeleteFunc([]*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete},
		func(op *huma.Operation) bool { return op == nil })
}

// Authenticator tells a Server who calls. Package session has the one that services use.
type Authenticator interface {
	// Middleware runs around every request and notes its caller in the context.
	Middleware(next http.Handler) http.Handler
	// Require returns an error, normally a *Problem, unless the request's caller may use an operation with Security.
	Require(ctx context.Context) error
	// SecuritySchemes documents how callers identify themselves.
	SecuritySchemes() map[string]*huma.SecurityScheme
}
