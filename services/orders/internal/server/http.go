package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/orders/internal/order"
	"github.com/turnstile-go/turnstile/services/orders/internal/store"
)

// Routes registers the service's operations.
func (s *Server) Routes(api huma.API) {
	api.OpenAPI().Info.Description = "An order reserves a ticket for its buyer until it is paid, is cancelled, or expires. Its ticket is as it " +
		"was when it was ordered: what is shown is what is charged."
	notFound, notBuyer := web.NotFound("Order not found"), web.Forbidden("This order is somebody else's")
	huma.Register(api, huma.Operation{
		OperationID: "create-order", Summary: "Order a ticket",
		Description: "Nobody else can order it then. Of several who try at the same time one succeeds.",
		Method:      http.MethodPost, Path: "/api/orders", DefaultStatus: http.StatusCreated,
		Security: session.Required,
		Responses: web.Problems(web.NotFound("Ticket not found"),
			web.Conflict(order.ErrTaken.Error()), web.Conflict(order.ErrOwnTicket.Error())),
	}, s.create)
	huma.Register(api, huma.Operation{
		OperationID: "list-orders", Summary: "List the caller's orders, newest first",
		Description: "In every state.",
		Method:      http.MethodGet, Path: "/api/orders",
		Security: session.Required,
	}, s.list)
	huma.Register(api, huma.Operation{
		OperationID: "get-order", Summary: "Show an order of the caller's",
		Description: "It stays `created` until it is `complete`, which it is once it is paid, or `cancelled`.",
		Method:      http.MethodGet, Path: "/api/orders/{id}",
		Security:  session.Required,
		Responses: web.Problems(notFound, notBuyer),
	}, s.get)
	huma.Register(api, huma.Operation{
		OperationID: "cancel-order", Summary: "Cancel an order that is not complete",
		Description: "Its ticket can be ordered again. Cancelling a cancelled order changes nothing.",
		Method:      http.MethodDelete, Path: "/api/orders/{id}", DefaultStatus: http.StatusNoContent,
		Security:  session.Required,
		Responses: web.Problems(notFound, notBuyer, web.Conflict(order.ErrComplete.Error()), stale()),
	}, s.delete)
}

// Order is an order on the wire.
type Order struct {
	ID        string        `json:"id" example:"019aaf40-1e5d-7b63-a7f2-8d1c0b9e4f35"`
	Status    string        `json:"status" enum:"created,complete,cancelled"`
	UserID    string        `json:"userId" doc:"The buyer" example:"019aaf3f-0c44-7e58-b1a6-93d7c2e5f048"`
	ExpiresAt time.Time     `json:"expiresAt" doc:"When the order is cancelled unless it is complete" example:"2026-01-02T15:19:05.678Z"`
	Version   int64         `json:"version" doc:"0, then one more with every change" minimum:"0" example:"0"`
	Ticket    OrderedTicket `json:"ticket"`
}

// OrderedTicket is a ticket as it was when it was ordered, on the wire.
type OrderedTicket struct {
	ID    string `json:"id" example:"019aaf3e-7c1b-7d2e-9a41-5c0d3f6b8e21"`
	Title string `json:"title" example:"A concert"`
	Price price  `json:"price" example:"19.99"`
}

// price is an order.Price with a schema.
type price struct{ order.Price }

// Schema implements huma.SchemaProvider.
func (price) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeNumber, Description: "A decimal number with at most two places: what is charged"}
}

func onWire(o order.Order) Order {
	return Order{
		ID: o.ID, Status: string(o.Status), UserID: o.UserID, ExpiresAt: o.ExpiresAt, Version: o.Version,
		Ticket: OrderedTicket{ID: o.Ticket.ID, Title: o.Ticket.Title, Price: price{o.Ticket.Price}},
	}
}

// OrderInput says what a buyer wants.
type OrderInput struct {
	TicketID string `json:"ticketId" doc:"The ticket to order" minLength:"1" example:"019aaf3e-7c1b-7d2e-9a41-5c0d3f6b8e21"`
}

// Validate implements web's validation of bodies.
func (in OrderInput) Validate() []web.Field {
	if strings.TrimSpace(in.TicketID) == "" {
		return []web.Field{{Name: "ticketId", Message: "TicketId must be provided"}}
	}
	return nil
}

type created = web.Created[Order]

func (s *Server) create(ctx context.Context, in *struct{ Body OrderInput }) (*created, error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return nil, err
	}
	return web.Once(ctx, s.db, func(keep func(context.Context, *database.Tx, *created) error) (*created, error) {
		out, err := s.place(ctx, caller.ID, in.Body.TicketID, keep)
		return out, problem(err, "Ticket not found")
	})
}

// place makes an order, and keeps the answer.
func (s *Server) place(
	ctx context.Context, userID, ticketID string, keep func(context.Context, *database.Tx, *created) error,
) (*created, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	now := time.Now()

	// A look before the transaction turns away, without a write, all but the
	// first of the many who want the same ticket.
	t, taken, err := store.Ticket(ctx, s.db, ticketID)
	if err != nil {
		return nil, err
	}
	if _, err := order.Place(id.String(), userID, t, now, s.expiration); err != nil {
		return nil, err
	}
	if taken {
		return nil, order.ErrTaken
	}

	var out *created
	err = s.db.InTx(ctx, func(tx *database.Tx) error {
		// The lock keeps the ticket from being deleted or edited unseen, and
		// tells of what was since the look.
		t, err := store.LockTicket(ctx, tx, ticketID)
		if err != nil {
			return err
		}
		o, err := order.Place(id.String(), userID, t, now, s.expiration)
		if err != nil {
			return err
		}
		if err := store.Insert(ctx, tx, o); err != nil {
			return err
		}
		err = s.outbox.Publish(ctx, tx, orders.Created{
			ID: o.ID, UserID: o.UserID, ExpiresAt: o.ExpiresAt,
			Ticket:  orders.Ticket{ID: o.Ticket.ID, Price: int64(o.Ticket.Price)},
			Version: o.Version,
		})
		if err != nil {
			return err
		}
		if err := s.outbox.Publish(ctx, tx, expiration{OrderID: o.ID}, event.At(o.ExpiresAt)); err != nil {
			return err
		}
		out = &created{Location: "/api/orders/" + o.ID, ETag: web.ETag(o.Version), Body: onWire(o)}
		return keep(ctx, tx, out)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) list(ctx context.Context, in *struct{ web.Page }) (*web.Listing[Order], error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return nil, err
	}
	return web.NewestFirst(in.Page, func(after string, limit int) ([]order.Order, error) {
		return store.List(ctx, s.db, caller.ID, after, limit)
	}, func(o order.Order) string { return o.ID }, onWire)
}

func (s *Server) get(ctx context.Context, in *struct {
	ID string `path:"id" example:"019aaf40-1e5d-7b63-a7f2-8d1c0b9e4f35"`
}) (*web.Versioned[Order], error) {
	o, err := own(ctx, s.db, in.ID)
	if err != nil {
		return nil, err
	}
	return &web.Versioned[Order]{ETag: web.ETag(o.Version), Body: onWire(o)}, nil
}

func (s *Server) delete(ctx context.Context, in *struct {
	ID string `path:"id" example:"019aaf40-1e5d-7b63-a7f2-8d1c0b9e4f35"`
	web.Precondition
}) (*struct{}, error) {
	err := s.db.InTx(ctx, func(tx *database.Tx) error {
		o, err := own(ctx, tx, in.ID)
		if err != nil {
			return err
		}
		if o.Status == order.Created && !in.Holds(o.Version) {
			return stale()
		}
		if o, err = s.cancel(ctx, tx, o.ID, orders.ByUser); err != nil {
			return err
		}
		if o.Status == order.Complete {
			return order.ErrComplete
		}
		return nil
	})
	if err != nil {
		return nil, problem(err, "Order not found")
	}
	return nil, nil
}

// own returns an order of the caller's.
func own(ctx context.Context, q database.Querier, id string) (order.Order, error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return order.Order{}, err
	}
	o, err := store.Get(ctx, q, id)
	if err != nil {
		return order.Order{}, problem(err, "Order not found")
	}
	if o.UserID != caller.ID {
		return order.Order{}, web.Forbidden("This order is somebody else's")
	}
	return o, nil
}

// stale answers a request whose If-Match does not hold.
func stale() *web.Problem { return web.PreconditionFailed("The order was changed meanwhile") }

// problem says to the caller what the rules refuse, and what the store did not
// find.
func problem(err error, notFound string) error {
	if refusal, ok := errors.AsType[order.Refusal](err); ok {
		return web.Conflict(refusal.Error())
	}
	if errors.Is(err, store.ErrNotFound) {
		return web.NotFound(notFound)
	}
	return err
}
