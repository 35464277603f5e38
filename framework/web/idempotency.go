package web

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humaecho"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	idempotencyKey      = "Idempotency-Key"     // draft-ietf-httpapi-idempotency-key-header
	idempotencyReplayed = "Idempotent-Replayed" // says that an answer is the first one again
	maxIdempotencyKey   = 255
)

// creates reports whether op takes an Idempotency-Key: every POST that answers 201 does.
func creates(op *huma.Operation) bool {
	return op.Method == http.MethodPost && op.DefaultStatus == http.StatusCreated
}

// attempt is a request with an Idempotency-Key.
type attempt struct {
	server      *Server
	id          string // tells nothing of what it is made of
	fingerprint string // of the request: two with the same are the same
	secret      []byte // encrypts the answer
	header      http.Header
	used        bool // by Once
}

type attemptKey struct{}

func attemptFrom(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	return a
}

// IdempotencyID names the request that ctx belongs to, and those that repeat it: it is a hash of the operation, the caller,
// the Idempotency-Key, and of what is asked for, since after a failure the key may be used for something else. It is empty
// for a request without that header. See [Once].
func IdempotencyID(ctx context.Context) string {
	a := attemptFrom(ctx)
	if a == nil {
		return ""
	}
	id := sha256.Sum256([]byte(a.id + a.fingerprint))
	return hex.EncodeToString(id[:])
}

// attempt calls next with a request that brings an Idempotency-Key.
func (s *Server) attempt(ctx huma.Context, key string, body []byte, next func(huma.Context)) {
	a, err := s.newAttempt(ctx, key, body)
	if err != nil {
		c := humaecho.Unwrap(ctx)
		WriteProblem(c.Response(), c.Request(), s.problem(ctx.Context(), err))
		return
	}
	next(huma.WithValue(ctx, attemptKey{}, a))
	if !a.used && ctx.Status() < http.StatusBadRequest {
		s.log.LogAttrs(ctx.Context(), slog.LevelError, "an Idempotency-Key had no effect: the operation uses neither web.Create nor web.Once",
			slog.String("operation", ctx.Operation().OperationID))
	}
}

// newAttempt tells what makes a request and its repetitions the same: the key, the operation, and its caller if it needs
// one. An operation without Security has no callers to tell apart: one that gives a session, like sign-up, is repeated with
// the session or without, depending on how much of the answer had arrived.
func (s *Server) newAttempt(ctx huma.Context, key string, body []byte) (*attempt, error) {
	op := ctx.Operation()
	caller := ""
	if len(op.Security) > 0 {
		caller = s.auth.Caller(ctx.Context())
	}
	id := sha256.Sum256([]byte(op.Method + " " + op.Path + "\x00" + caller + "\x00" + key))
	a := &attempt{server: s, id: hex.EncodeToString(id[:]), header: humaecho.Unwrap(ctx).Response().Header()}
	derive := func(purpose string) ([]byte, error) {
		return hkdf.Key(sha256.New, []byte(key), id[:], "turnstile idempotency "+purpose, sha256.Size)
	}
	var err error
	if a.secret, err = derive("answer"); err != nil {
		return nil, err
	}
	fingerprint, err := derive("request")
	if err != nil {
		return nil, err
	}
	canonical := jsontext.Value(body).Clone()
	if len(canonical) > 0 {
		// Whole numbers keep all their digits; the others are compared as what nearly everybody reads them as.
		if err := canonical.Canonicalize(jsontext.CanonicalizeRawInts(false)); err != nil {
			return nil, err
		}
	}
	u := ctx.URL()
	mac := hmac.New(sha256.New, fingerprint)
	mac.Write([]byte(u.RequestURI() + "\x00"))
	mac.Write(canonical)
	a.fingerprint = hex.EncodeToString(mac.Sum(nil))
	return a, nil
}

// readIdempotencyKey returns the key that a request brings, empty if there is none. The key is a structured field's string
// (RFC 9651, section 3.3.3), as the draft wants it, or the same without the quotes, as most clients write it.
func readIdempotencyKey(h http.Header) (string, error) {
	values, sent := h[idempotencyKey]
	if !sent {
		return "", nil
	}
	if len(values) != 1 {
		return "", errors.New("must be sent once")
	}
	key := strings.Trim(values[0], " \t")
	if strings.HasPrefix(key, `"`) {
		var ok bool
		if key, ok = unquote(key); !ok {
			return "", errors.New("begins with a quotation mark and is not a quoted string")
		}
	}
	switch {
	case key == "":
		return "", errors.New("must not be empty; a random UUID is a good one")
	case len(key) > maxIdempotencyKey:
		return "", errors.New("must have at most " + strconv.Itoa(maxIdempotencyKey) + " characters")
	case strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }):
		return "", errors.New("must consist of printable ASCII characters")
	}
	return key, nil
}

// unquote reads a string of RFC 9651.
func unquote(s string) (string, bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), i == len(s)-1
		case '\\':
			i++
			if i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", false
}

// documentIdempotencyKey says in op that it takes the header.
func documentIdempotencyKey(op *huma.Operation) {
	one, most := 1, maxIdempotencyKey
	op.Parameters = append(op.Parameters, &huma.Param{
		Name: idempotencyKey, In: "header",
		Description: "A name for this request that no other has, such as a random UUID. Within 24 hours the same request with " +
			"the same key is answered with what the first one was answered with, and has no further effect.",
		Schema:  &huma.Schema{Type: huma.TypeString, MinLength: &one, MaxLength: &most},
		Example: "9f2b6c1e-7d0a-4a53-8f6e-1f6f0f1c2ab3",
	})
	created := op.Responses[strconv.Itoa(http.StatusCreated)]
	if created.Headers == nil {
		created.Headers = map[string]*huma.Param{}
	}
	created.Headers[idempotencyReplayed] = &huma.Param{
		Description: "true if this is the answer to an earlier request with the same Idempotency-Key",
		Schema:      &huma.Schema{Type: huma.TypeBoolean}, Example: true,
	}
}
