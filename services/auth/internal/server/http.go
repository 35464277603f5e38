package server

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth"
	"github.com/turnstile-go/turnstile/services/auth/internal/store"
	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

// Routes registers the service's operations.
func (s *Server) Routes(api huma.API) {
	api.OpenAPI().Info.Description = "Who somebody is. Signing up or in starts a session, which all services know by the same cookie or token."
	huma.Register(api, huma.Operation{
		OperationID: "sign-up", Summary: "Become a user, and sign in",
		Description: "An e-mail address can be used once, in whatever letter case.",
		Method:      http.MethodPost, Path: "/api/users/signup", DefaultStatus: http.StatusCreated,
		Responses: web.Problems(web.Conflict("Email in use")),
	}, s.signUp)
	huma.Register(api, huma.Operation{
		OperationID: "sign-in", Summary: "Start a session",
		Description: "Whether the address is unknown or the password is wrong is not told.",
		Method:      http.MethodPost, Path: "/api/users/signin",
		Responses: web.Problems(web.Unauthorized("Invalid credentials")),
	}, s.signIn)
	huma.Register(api, huma.Operation{
		OperationID: "sign-out", Summary: "End the session, if there is one",
		Description: "It ends for all services, and wherever the same cookie or token is used.",
		Method:      http.MethodPost, Path: "/api/users/signout",
		Security: session.Optional,
	}, s.signOut)
	huma.Register(api, huma.Operation{
		OperationID: "current-user", Summary: "Tell whose session this is",
		Description: "Without a session, or with one that has ended, it is nobody's: null.",
		Method:      http.MethodGet, Path: "/api/users/currentuser",
		Security: session.Optional,
	}, s.currentUser)
	huma.Register(api, huma.Operation{
		OperationID: "public-keys", Summary: "Publish the keys that sessions are verified with",
		Description: "A JSON Web Key Set (RFC 7517) of Ed25519 keys (RFC 8037).",
		Method:      http.MethodGet, Path: "/.well-known/jwks.json",
		Responses: map[string]*huma.Response{"200": {Content: map[string]*huma.MediaType{"application/json": {
			Schema: &huma.Schema{
				Type: huma.TypeObject, Required: []string{"keys"}, AdditionalProperties: true,
				Properties: map[string]*huma.Schema{"keys": {Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeObject}}},
			},
			Example: map[string]any{"keys": []any{map[string]any{
				"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
				"kid": "019aaf3c-2f61-7c0a-8f43-d0b1e9a57c26", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
			}}},
		}}}},
	}, s.publicKeys)
}

// User is a user on the wire.
type User struct {
	ID    string `json:"id" example:"019aaf3d-52f0-7a11-8c3e-2b9d4e7f6a10"`
	Email string `json:"email" format:"email" example:"ann@example.com"`
}

// SignUp is what a new user says.
type SignUp struct {
	Email    string `json:"email" doc:"In whatever letter case: it is the same address" format:"email" example:"ann@example.com"`
	Password string `json:"password" doc:"Taken as it is" minLength:"8" maxLength:"128" format:"password" example:"correct horse"`
}

// Validate implements web's validation of bodies.
func (in SignUp) Validate() []web.Field {
	return failures(user.CheckEmail(in.Email), user.CheckPassword(in.Password))
}

// SignIn is what a user says to prove who they are.
type SignIn struct {
	Email    string `json:"email" format:"email" example:"ann@example.com"`
	Password string `json:"password" minLength:"1" format:"password" example:"correct horse"`
}

// Validate implements web's validation of bodies. A password that nobody can
// have is no failure here, just a wrong one.
func (in SignIn) Validate() []web.Field {
	var password error
	if in.Password == "" {
		password = user.ErrNoPassword
	}
	return failures(user.CheckEmail(in.Email), password)
}

func failures(email, password error) (fields []web.Field) {
	if email != nil {
		fields = append(fields, web.Field{Name: "email", Message: email.Error()})
	}
	if password != nil {
		fields = append(fields, web.Field{Name: "password", Message: password.Error()})
	}
	return fields
}

// sessionOutput tells a user who they are, and gives them a session.
type sessionOutput struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Body      User
}

func (s *Server) signUp(ctx context.Context, in *struct{ Body SignUp }) (*sessionOutput, error) {
	if err := s.attempts.admit(ctx, in.Body.Email); err != nil {
		return nil, err
	}
	// Hashing takes too long for a transaction.
	return web.Once(ctx, s.db, func(keep func(context.Context, *database.Tx, *sessionOutput) error) (*sessionOutput, error) {
		taken := web.Conflict("Email in use")
		// The unique index decides; asking first spares hashing.
		if _, err := store.ByEmail(ctx, s.db, in.Body.Email); err == nil {
			return nil, taken
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		hash, err := s.hasher.Hash(ctx, in.Body.Password)
		if err != nil {
			return nil, err
		}
		id, err := uuid.NewV7()
		if err != nil {
			return nil, err
		}
		u := user.User{ID: id.String(), Email: in.Body.Email, Password: hash}
		out, err := s.begin(ctx, u)
		if err != nil {
			return nil, err
		}
		err = s.db.InTx(ctx, func(tx *database.Tx) error {
			if err := store.Insert(ctx, tx, u, time.Now()); err != nil {
				return err
			}
			if err := s.outbox.Publish(ctx, tx, auth.Registered{ID: u.ID, Email: u.Email}); err != nil {
				return err
			}
			return keep(ctx, tx, out)
		})
		if errors.Is(err, store.ErrTaken) {
			return nil, taken
		}
		return out, err
	})
}

// signIn takes as long, and answers the same, for an address that nobody has as
// for a wrong password.
func (s *Server) signIn(ctx context.Context, in *struct{ Body SignIn }) (*sessionOutput, error) {
	if err := s.attempts.admit(ctx, in.Body.Email); err != nil {
		return nil, err
	}
	u, err := store.ByEmail(ctx, s.db, in.Body.Email)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	ok, outdated, err := s.hasher.Matches(ctx, in.Body.Password, u.Password)
	switch {
	case errors.Is(err, user.ErrDamaged): // whoever asks learns nothing from that
		s.log.LogAttrs(ctx, slog.LevelError, "a user cannot sign in", slog.String("user", u.ID), slog.Any("error", err))
	case err != nil:
		return nil, err
	}
	if !ok {
		return nil, web.Unauthorized("Invalid credentials")
	}
	if outdated {
		s.rehash(ctx, u, in.Body.Password)
	}
	return s.begin(ctx, u)
}

// rehash keeps a password as it would be kept now. If that fails, the next time
// will do.
func (s *Server) rehash(ctx context.Context, u user.User, password string) {
	hash, err := s.hasher.Hash(ctx, password)
	if err == nil {
		err = s.db.InTx(ctx, func(tx *database.Tx) error { return store.ReplacePassword(ctx, tx, u, hash) })
	}
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "a password keeps its old cost", slog.String("user", u.ID), slog.Any("error", err))
	}
}

// begin starts a session of u.
func (s *Server) begin(ctx context.Context, u user.User) (*sessionOutput, error) {
	key, err := s.keys.signing()
	if err != nil {
		return nil, err
	}
	token, expires, err := s.issue.Sign(key, session.Caller{ID: u.ID, Email: u.Email}, time.Now())
	if err != nil {
		return nil, err
	}
	return &sessionOutput{SetCookie: session.SetCookie(ctx, token, expires), Body: User{ID: u.ID, Email: u.Email}}, nil
}

// Nothing is the empty object.
type Nothing struct{}

type signOutOutput struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Body      Nothing
}

// signOut revokes every session that the request came with.
func (s *Server) signOut(ctx context.Context, _ *struct{}) (*signOutOutput, error) {
	presented, err := s.sessions.Presented(ctx)
	if err != nil {
		return nil, err
	}
	if len(presented) > 0 {
		if err := s.db.InTx(ctx, func(tx *database.Tx) error { return s.revoke(ctx, tx, presented...) }); err != nil {
			return nil, err
		}
	}
	return &signOutOutput{SetCookie: session.ClearCookie(ctx)}, nil
}

// revoke has sessions, or keys, count no longer, and tells everybody.
func (s *Server) revoke(ctx context.Context, tx *database.Tx, all ...session.Revoked) error {
	for _, r := range all {
		news, err := s.sessions.Revoke(ctx, tx, r)
		if err == nil && news {
			err = s.outbox.Publish(ctx, tx, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// CurrentUser is the user whose session it is, null for none.
type CurrentUser struct {
	CurrentUser *User `json:"currentUser"`
}

// TransformSchema implements huma.SchemaTransformer: it says that null is
// possible.
func (CurrentUser) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	const member = "currentUser"
	s.Properties[member] = &huma.Schema{AnyOf: []*huma.Schema{s.Properties[member], {Type: "null"}}}
	return s
}

func (s *Server) currentUser(ctx context.Context, _ *struct{}) (*struct{ Body CurrentUser }, error) {
	out := &struct{ Body CurrentUser }{}
	if caller, ok := session.From(ctx); ok {
		out.Body.CurrentUser = &User{ID: caller.ID, Email: caller.Email}
	}
	return out, nil
}

func (s *Server) publicKeys(context.Context, *struct{}) (*struct{ Body json.RawMessage }, error) {
	keys, err := s.keys.published()
	if err != nil {
		return nil, err
	}
	set, err := session.PublicSet(keys...)
	if err != nil {
		return nil, err
	}
	return &struct{ Body json.RawMessage }{set}, nil
}
