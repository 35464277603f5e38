package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Problem is an error as the caller sees it: an RFC 9457 problem with the extra member errors, which holds at least one
// entry. It is an error value: handlers return it, made by one of the functions below. The server fills in Instance.
type Problem struct {
	Type     string  `json:"type" doc:"always about:blank: the status says it all"`
	Title    string  `json:"title" doc:"the status in words"`
	Status   int     `json:"status" doc:"the HTTP status"`
	Detail   string  `json:"detail" doc:"what went wrong, for people"`
	Instance string  `json:"instance,omitempty" doc:"the path of the request"`
	TraceID  string  `json:"traceId,omitempty" doc:"what to quote when reporting an unforeseen error"`
	Errors   []Field `json:"errors" doc:"every failure; at least one"`

	header http.Header
}

// Field is one failure in a Problem, about the member Name of the request, or about the request as a whole when Name is
// empty.
type Field struct {
	Message string `json:"message"`
	Name    string `json:"field,omitempty"`
}

// Error returns the status and every message.
func (p *Problem) Error() string {
	messages := make([]string, len(p.Errors))
	for i, f := range p.Errors {
		messages[i] = f.Message
	}
	return strconv.Itoa(p.Status) + " " + p.Title + ": " + strings.Join(messages, "; ")
}

// GetStatus returns the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType returns the media type of a problem, whatever was negotiated.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

func newProblem(status int, msg string, fields ...Field) *Problem {
	if msg == "" {
		msg = http.StatusText(status)
	}
	if len(fields) == 0 {
		fields = []Field{{Message: msg}}
	}
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: msg, Errors: fields}
}

func (p *Problem) with(name, value string) *Problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

// NotFound is 404: there is no such thing.
func NotFound(msg string) *Problem { return newProblem(http.StatusNotFound, msg) }

// Conflict is 409: the thing's state does not allow it.
func Conflict(msg string) *Problem { return newProblem(http.StatusConflict, msg) }

// Forbidden is 403: the thing belongs to somebody else.
func Forbidden(msg string) *Problem { return newProblem(http.StatusForbidden, msg) }

// OtherOrigin is 403: a page of another origin made the browser ask, which added the caller's cookie by itself.
func OtherOrigin() *Problem { return Forbidden("Requests from other origins are refused") }

// Unauthorized is 401: the caller has no valid session, or gave wrong credentials.
func Unauthorized(msg string) *Problem { return newProblem(http.StatusUnauthorized, msg) }

// PaymentRequired is 402: the payment was declined.
func PaymentRequired(msg string) *Problem { return newProblem(http.StatusPaymentRequired, msg) }

// PreconditionFailed is 412: the thing is no longer what the caller's If-Match says it is.
func PreconditionFailed(msg string) *Problem { return newProblem(http.StatusPreconditionFailed, msg) }

// Invalid is 422 with every failure, in the order of the fields.
func Invalid(fields ...Field) *Problem {
	return newProblem(http.StatusUnprocessableEntity, "The request is not valid", fields...)
}

// andInvalid adds a failure before those of p, which may be nil. It makes no difference to a problem other than 422.
func (p *Problem) andInvalid(f Field) *Problem {
	switch {
	case p == nil:
		return Invalid(f)
	case p.Status != http.StatusUnprocessableEntity:
		return p
	}
	return Invalid(append([]Field{f}, p.Errors...)...)
}

// Unavailable is 503: worth another try after the given time, which is rounded up to whole seconds, at least one.
func Unavailable(msg string, retryAfter time.Duration) *Problem {
	return newProblem(http.StatusServiceUnavailable, msg).retryAfter(retryAfter)
}

// TooMany is 429: the caller may try again after the given time, which is rounded up as for Unavailable.
func TooMany(msg string, retryAfter time.Duration) *Problem {
	return newProblem(http.StatusTooManyRequests, msg).retryAfter(retryAfter)
}

func (p *Problem) retryAfter(d time.Duration) *Problem {
	seconds := max(1, int((d+time.Second-1)/time.Second))
	return p.with("Retry-After", strconv.Itoa(seconds))
}

// statusGone marks a request whose caller left before the answer; nobody sees it but the log.
const statusGone = 499

// problem turns any error into what the caller is told. It is the only place that decides a status from an error, and
// logs what the caller is not told.
func (s *Server) problem(ctx context.Context, err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	for _, known := range s.mapErr {
		if p := known(err); p != nil {
			return p
		}
	}
	var model *huma.ErrorModel // what Huma's own constructors make
	if errors.As(err, &model) {
		if model.Status < http.StatusInternalServerError {
			return refusal(model)
		}
		err = inFull(err, model)
	}
	switch {
	case ctx.Err() == context.Canceled: // whatever became of the work, nobody waits for it
		return newProblem(statusGone, "The caller went away")
	case model != nil && model.Status == http.StatusServiceUnavailable,
		database.Away(err), database.Retryable(err), errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil:
		s.log.LogAttrs(ctx, slog.LevelWarn, "a dependency is away", slog.Any("error", err))
		return away()
	}
	p = unforeseen(ctx)
	s.log.LogAttrs(ctx, slog.LevelError, "request failed", slog.Any("error", err), slog.String("incident", p.TraceID))
	return p
}

// refusal is an error of Huma's that is the caller's to know.
func refusal(model *huma.ErrorModel) *Problem {
	p := newProblem(model.Status, model.Detail, fieldsOf(model.Errors)...)
	if p.Status == http.StatusTooManyRequests {
		p = p.retryAfter(time.Second)
	}
	return p
}

// inFull is err with all that the error of Huma's in it says: its own text leaves out the errors that it was made with.
func inFull(err error, model *huma.ErrorModel) error {
	for _, d := range model.Errors {
		if d != nil {
			err = fmt.Errorf("%w: %w", err, d)
		}
	}
	return err
}

func away() *Problem {
	return Unavailable("The service is briefly unavailable, please try again", time.Second)
}

// unforeseen is 500 with the id under which the log has the rest.
func unforeseen(ctx context.Context) *Problem {
	p := newProblem(http.StatusInternalServerError, "Something went wrong")
	p.TraceID = traceID(ctx)
	return p
}

// traceID is the id of the request's trace, or a fresh one when nothing is traced.
func traceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// complete returns p as it is sent in answer to r.
func (p *Problem) complete(h http.Header, r *http.Request) *Problem {
	for name, values := range p.header {
		if len(h[name]) == 0 { // else the handler knows better
			h[name] = values
		}
	}
	q := *p
	q.Instance = r.URL.EscapedPath()
	return &q
}

// WriteProblem answers r with p. It is for middleware; handlers return p.
func WriteProblem(w http.ResponseWriter, r *http.Request, p *Problem) {
	body, err := encode(p.complete(w.Header(), r))
	if err != nil { // cannot happen: a problem holds strings and numbers
		panic(err)
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	w.Write(body) //nolint:errcheck // the caller has gone
}
