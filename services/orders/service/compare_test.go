package service

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/servicetest"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/orders/internal/order"
	"github.com/turnstile-go/turnstile/services/orders/internal/store"
)

// BenchmarkOperations measures the service beside handlers of Echo alone that
// send the same statements to a database of the same kind: what is between the
// two is what framework/web costs.
func BenchmarkOperations(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { compare(b, servicetest.SQLite) })
	b.Run("postgres", func(b *testing.B) { compare(b, servicetest.Postgres) })
}

func compare(b *testing.B, on func(testing.TB) servicetest.Database) {
	databases := map[*servicetest.Service]string{}
	start := func(assemble func(*framework.Service, Config, ...event.Broker) error) *servicetest.Service {
		on := on(b)
		on.Processes = 1
		s := servicetest.Start(b, "orders", assemble, on)
		databases[s] = on.URL
		return s
	}
	whole, bare := start(Assemble), start(bareService)

	tickets := map[*servicetest.Service][]string{}
	offer := func(of *servicetest.Service, n int) { // the service hears of that many tickets
		db, err := database.New(database.Config{URL: databases[of]})
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		tickets[of] = nil
		err = db.InTx(b.Context(), func(tx *database.Tx) error {
			for range n {
				id := uuid.Must(uuid.NewV7()).String()
				tickets[of] = append(tickets[of], id)
				if err := store.PutTicket(b.Context(), tx, order.Ticket{ID: id, Title: "Opera", Price: 1999, UserID: "ada"}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	const n = 200
	ids := map[*servicetest.Service][]string{}
	for _, s := range []*servicetest.Service{whole, bare} {
		offer(s, n)
		for _, ticket := range tickets[s] {
			var o struct{ ID string }
			s.Want(http.StatusCreated, &o, "bob", "POST", "/api/orders", map[string]string{"ticketId": ticket})
			ids[s] = append(ids[s], o.ID)
		}
	}
	b.Run("create", func(b *testing.B) {
		servicetest.Compare(b, whole, bare, offer, func(of *servicetest.Service, i int) servicetest.Request {
			return servicetest.Request{User: "bob", Method: "POST", Path: "/api/orders",
				Body: fmt.Sprintf(`{"ticketId":%q}`, tickets[of][i]), Status: http.StatusCreated}
		})
	})
	b.Run("get", func(b *testing.B) {
		servicetest.Compare(b, whole, bare, nil, func(of *servicetest.Service, i int) servicetest.Request {
			return servicetest.Request{User: "bob", Method: "GET", Path: "/api/orders/" + ids[of][i%n], Status: http.StatusOK}
		})
	})
}

// bareService is the service with Echo alone before the database: it knows
// nobody, checks nothing that the database does not, and logs nothing.
func bareService(s *framework.Service, cfg Config, brokers ...event.Broker) error {
	db, err := database.New(cfg.Database, event.Migrations(), store.Migrations())
	if err != nil {
		return err
	}
	h := bareHandlers{db, event.NewOutbox(db, s.Name, orders.Created{}, bareExpiration{})}
	e := echo.New()
	e.POST("/api/orders", h.create)
	e.GET("/api/orders/:id", h.get)
	s.Add("database", db)
	s.Add("events", event.NewClient(cfg.Events, h.outbox, nil, event.Telemetry{}, brokers...))
	s.Add("http", &servicetest.Bare{Handler: e})
	return nil
}

type bareHandlers struct {
	db     *database.DB
	outbox *event.Outbox
}

// bareExpiration is the service's note to itself that an order's time is up.
type bareExpiration struct {
	OrderID string `json:"orderId"`
}

func (e bareExpiration) Meta() event.Meta {
	return event.Meta{Stream: "order-expirations", Type: "order.expiration", Key: e.OrderID}
}

type bareOrder struct {
	ID        string    `json:"id"`
	Status    string    `json:"status"`
	UserID    string    `json:"userId"`
	ExpiresAt time.Time `json:"expiresAt"`
	Version   int64     `json:"version"`
	Ticket    struct {
		ID    string      `json:"id"`
		Title string      `json:"title"`
		Price json.Number `json:"price"`
	} `json:"ticket"`
}

func onBareWire(o order.Order) bareOrder {
	wire := bareOrder{ID: o.ID, Status: string(o.Status), UserID: o.UserID, ExpiresAt: o.ExpiresAt, Version: o.Version}
	wire.Ticket.ID, wire.Ticket.Title, wire.Ticket.Price = o.Ticket.ID, o.Ticket.Title, json.Number(o.Ticket.Price.String())
	return wire
}

func (h bareHandlers) create(c echo.Context) error {
	var in struct {
		TicketID string `json:"ticketId"`
	}
	if err := c.Bind(&in); err != nil {
		return err
	}
	ctx := c.Request().Context()
	if _, _, err := store.Ticket(ctx, h.db, in.TicketID); err != nil {
		return err
	}
	var o order.Order
	err := h.db.InTx(ctx, func(tx *database.Tx) error { return h.place(ctx, tx, in.TicketID, &o) })
	if err != nil {
		return err
	}
	return c.JSON(http.StatusCreated, onBareWire(o))
}

func (h bareHandlers) place(ctx context.Context, tx *database.Tx, ticket string, o *order.Order) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	t, err := store.LockTicket(ctx, tx, ticket)
	if err != nil {
		return err
	}
	if *o, err = order.Place(id.String(), "bob", t, time.Now(), 15*time.Minute); err != nil {
		return err
	}
	if err := store.Insert(ctx, tx, *o); err != nil {
		return err
	}
	err = h.outbox.Publish(ctx, tx, orders.Created{
		ID: o.ID, UserID: o.UserID, ExpiresAt: o.ExpiresAt, Ticket: orders.Ticket{ID: o.Ticket.ID, Price: int64(o.Ticket.Price)}, Version: o.Version,
	})
	if err != nil {
		return err
	}
	return h.outbox.Publish(ctx, tx, bareExpiration{OrderID: o.ID}, event.At(o.ExpiresAt))
}

func (h bareHandlers) get(c echo.Context) error {
	o, err := store.Get(c.Request().Context(), h.db, c.Param("id"))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, onBareWire(o))
}
