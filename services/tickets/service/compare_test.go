package service

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/servicetest"
	"github.com/turnstile-go/turnstile/services/tickets"
	"github.com/turnstile-go/turnstile/services/tickets/internal/server"
	"github.com/turnstile-go/turnstile/services/tickets/internal/store"
	"github.com/turnstile-go/turnstile/services/tickets/internal/ticket"
)

// BenchmarkOperations measures the service beside handlers of Echo alone that
// send the same statements to a database of the same kind: what is between the
// two is what framework/web costs.
func BenchmarkOperations(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { compare(b, servicetest.SQLite) })
	b.Run("postgres", func(b *testing.B) { compare(b, servicetest.Postgres) })
}

func compare(b *testing.B, database func(testing.TB) servicetest.Database) {
	start := func(assemble func(*framework.Service, Config, ...event.Broker) error) *servicetest.Service {
		on := database(b)
		on.Processes = 1
		return servicetest.Start(b, "tickets", assemble, on)
	}
	whole, bare := start(Assemble), start(bareService)
	const n = 200
	ids := map[*servicetest.Service][]string{}
	for _, s := range []*servicetest.Service{whole, bare} {
		for i := range n {
			var t struct{ ID string }
			s.Want(http.StatusCreated, &t, "ada", "POST", "/api/tickets", fmt.Sprintf(`{"title":"Opera %d","price":19.99}`, i))
			ids[s] = append(ids[s], t.ID)
		}
	}
	edits := 0
	for _, operation := range []struct {
		name string
		next func(of *servicetest.Service, i int) servicetest.Request
	}{
		{"get", func(of *servicetest.Service, i int) servicetest.Request {
			return servicetest.Request{Method: "GET", Path: "/api/tickets/" + ids[of][i%n], Status: 200}
		}},
		{"list", func(*servicetest.Service, int) servicetest.Request {
			return servicetest.Request{Method: "GET", Path: "/api/tickets", Status: 200}
		}},
		{"edit", func(of *servicetest.Service, i int) servicetest.Request {
			edits++ // every one changes something
			return servicetest.Request{User: "ada", Method: "PUT", Path: "/api/tickets/" + ids[of][i%n],
				Body: fmt.Sprintf(`{"title":"Opera %d","price":19.99}`, edits), Status: 200}
		}},
		{"create", func(*servicetest.Service, int) servicetest.Request { // last: PostgreSQL knows nothing of so many new rows
			return servicetest.Request{User: "ada", Method: "POST", Path: "/api/tickets", Body: `{"title":"Opera","price":19.99}`, Status: 201}
		}},
	} {
		b.Run(operation.name, func(b *testing.B) { servicetest.Compare(b, whole, bare, nil, operation.next) })
	}
}

// bareService is the service with Echo alone before the database: it knows
// nobody, checks nothing that the database does not, and logs nothing.
func bareService(s *framework.Service, cfg Config, brokers ...event.Broker) error {
	db, err := database.New(cfg.Database, event.Migrations(), store.Migrations())
	if err != nil {
		return err
	}
	outbox := event.NewOutbox(db, s.Name, server.Publishes()...)
	h := bareHandlers{db, outbox}
	e := echo.New()
	e.POST("/api/tickets", h.create)
	e.PUT("/api/tickets/:id", h.edit)
	e.GET("/api/tickets/:id", h.get)
	e.GET("/api/tickets", h.list)
	s.Add("database", db)
	s.Add("events", event.NewClient(cfg.Events, outbox, nil, event.Telemetry{}, brokers...))
	s.Add("http", &servicetest.Bare{Handler: e})
	return nil
}

type bareHandlers struct {
	db     *database.DB
	outbox *event.Outbox
}

type bareInput struct {
	Title string  `json:"title"`
	Price float64 `json:"price"`
}

type bareTicket struct {
	ID      string      `json:"id"`
	Title   string      `json:"title"`
	Price   json.Number `json:"price"`
	UserID  string      `json:"userId"`
	Version int64       `json:"version"`
	OrderID string      `json:"orderId,omitempty"`
}

func onBareWire(t ticket.Ticket) bareTicket {
	return bareTicket{t.ID, t.Title, json.Number(strconv.FormatFloat(float64(t.Price)/100, 'f', -1, 64)), t.UserID, t.Version, t.OrderID}
}

func (h bareHandlers) create(c echo.Context) error {
	var in bareInput
	if err := c.Bind(&in); err != nil {
		return err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	t := ticket.Ticket{ID: id.String(), Title: in.Title, Price: ticket.Price(math.Round(in.Price * 100)), UserID: "ada"}
	err = h.db.InTx(ctx, func(tx *database.Tx) error {
		if err := store.Insert(ctx, tx, t); err != nil {
			return err
		}
		return h.outbox.Publish(ctx, tx, tickets.Created{
			ID: t.ID, Title: t.Title, Price: int64(t.Price), UserID: t.UserID, Version: t.Version,
		})
	})
	if err != nil {
		return err
	}
	return c.JSON(http.StatusCreated, onBareWire(t))
}

func (h bareHandlers) edit(c echo.Context) error {
	var in bareInput
	if err := c.Bind(&in); err != nil {
		return err
	}
	ctx := c.Request().Context()
	var t ticket.Ticket
	err := h.db.InTx(ctx, func(tx *database.Tx) (err error) {
		if t, err = store.Lock(ctx, tx, c.Param("id")); err != nil {
			return err
		}
		if _, err := t.Edit(in.Title, ticket.Price(math.Round(in.Price*100))); err != nil {
			return err
		}
		if err := store.Save(ctx, tx, t); err != nil {
			return err
		}
		return h.outbox.Publish(ctx, tx, tickets.Updated{
			ID: t.ID, Title: t.Title, Price: int64(t.Price), UserID: t.UserID, Version: t.Version,
		})
	})
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, onBareWire(t))
}

func (h bareHandlers) get(c echo.Context) error {
	t, err := store.Get(c.Request().Context(), h.db, c.Param("id"))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, onBareWire(t))
}

func (h bareHandlers) list(c echo.Context) error {
	list, err := store.ForSale(c.Request().Context(), h.db, "", uuid.Max.String(), 51)
	if err != nil {
		return err
	}
	page := make([]bareTicket, min(50, len(list)))
	for i := range page {
		page[i] = onBareWire(list[i])
	}
	return c.JSON(http.StatusOK, page)
}
