package servicetest_test

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"testing"
	"testing/fstest"

	"github.com/danielgtaylor/huma/v2"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/servicetest"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
)

func TestMain(m *testing.M) { servicetest.Main(m) }

// joined is what another service publishes, welcomed what the service under
// test does.
type joined struct {
	ID string `json:"id"`
}

func (e joined) Meta() event.Meta {
	return event.Meta{Stream: "members", Type: "member.joined", Key: e.ID}
}

type welcomed struct {
	ID       string `json:"id"`
	Greeting string `json:"greeting"`
}

func (e welcomed) Meta() event.Meta {
	return event.Meta{Stream: "welcomes", Type: "member.welcomed", Key: e.ID}
}

type config struct {
	Database database.Config
	HTTP     web.Config
	Events   event.Config
	Session  session.Config
	Greeting string `env:"GREETING" envDefault:"Hello"`
}

// member is a member on the wire.
type member struct {
	ID       string `json:"id"`
	Greeting string `json:"greeting"`
}

// assemble builds a service that welcomes members who have joined, and shows
// them to themselves.
func assemble(s *framework.Service, cfg config, brokers ...event.Broker) error {
	schema := fstest.MapFS{"0001_members.sql": {Data: []byte(`-- +goose Up
CREATE TABLE members (id TEXT PRIMARY KEY, greeting TEXT NOT NULL);`)}}
	db, err := database.New(cfg.Database, event.Migrations(),
		database.Migrations{Table: "members_schema", Postgres: schema, SQLite: schema})
	if err != nil {
		return err
	}
	outbox := event.NewOutbox(db, s.Name, welcomed{})
	listener := event.NewListener(db, s.Name)
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[joined]) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO members (id, greeting) VALUES ($1, $2)`, m.Data.ID, cfg.Greeting); err != nil {
			return err
		}
		return outbox.Publish(ctx, tx, welcomed{ID: m.Data.ID, Greeting: cfg.Greeting})
	})
	api := web.NewServer("members", cfg.HTTP, s.Log, s.Tracer, s.Meter)
	api.Authenticate(session.NewVerifier(cfg.Session, nil, s.Log))
	huma.Register(api.API(), huma.Operation{
		OperationID: "show-member", Method: http.MethodGet, Path: "/api/members/me", Security: session.Required,
	}, func(ctx context.Context, _ *struct{}) (*struct{ Body member }, error) {
		caller, err := session.Require(ctx)
		if err != nil {
			return nil, err
		}
		m := member{ID: caller.ID}
		err = db.QueryRowContext(ctx, `SELECT greeting FROM members WHERE id = $1`, m.ID).Scan(&m.Greeting)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, web.NotFound("You have not joined")
		}
		return &struct{ Body member }{m}, err
	})
	s.Add("database", db)
	s.Add("events", event.NewClient(cfg.Events, outbox, listener, event.Telemetry{Log: s.Log, Tracer: s.Tracer, Meter: s.Meter}, brokers...))
	s.Add("http", api)
	return nil
}

func TestService(t *testing.T) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) {
		s := servicetest.Start(t, "members", assemble, on, "GREETING=Welcome")
		others := eventtest.NewPeer(t, s.Broker, joined{})
		eventtest.Hear[welcomed](others)
		others.Start()

		s.Refused(http.StatusUnauthorized, nil, "", "GET", "/api/members/me", nil)
		s.Refused(http.StatusNotFound, []string{"You have not joined"}, "ada", "GET", "/api/members/me", nil)

		others.Publish(joined{ID: "ada"})
		if all := eventtest.AwaitEqual(others, welcomed{ID: "ada", Greeting: "Welcome"}); len(all) != 1 {
			t.Errorf("welcomed %d times", len(all))
		}
		var me member
		for range 4 { // whichever process answers
			if s.Want(http.StatusOK, &me, "ada", "GET", "/api/members/me", nil); me != (member{"ada", "Welcome"}) {
				t.Errorf("got %+v", me)
			}
		}
		if len(s.URLs) != on.Processes {
			t.Errorf("%d processes at %v", on.Processes, s.URLs)
		}
		for _, url := range s.URLs {
			if res, err := s.Send(t.Context(), "ada", "GET", url+"/api/members/me", nil); err != nil || res.Status != http.StatusOK {
				t.Errorf("%s: %v, %v", url, res, err)
			}
		}

		// What happens while the service is down happens when it is back.
		s.Stop()
		if _, err := s.Send(t.Context(), "ada", "GET", "/api/members/me", nil); err == nil {
			t.Error("a service that was stopped has answered")
		}
		others.Publish(joined{ID: "bob"})
		s.Boot()
		s.Want(http.StatusOK, nil, "ada", "GET", "/api/members/me", nil)
		s.Eventually(func() error {
			res, err := s.Send(t.Context(), "bob", "GET", "/api/members/me", nil)
			if err == nil && res.Status != http.StatusOK {
				err = errors.New(res.String())
			}
			return err
		})
		eventtest.AwaitEqual(others, welcomed{ID: "bob", Greeting: "Welcome"})
	})
}
