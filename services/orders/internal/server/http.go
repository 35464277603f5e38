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
	huma.Register(api, huma.Operation{
		OperationID: "create-order", Summary: "Order a ticket, which nobody else can buy then",
		Method: http.MethodPost, Path: "/api/orders", DefaultStatus: http.StatusCreated,
		Security: session.Required,
		Errors:   []int{http.StatusNotFound, http.StatusConflict},
	}, s.create)
	huma.Register(api, huma.Operation{
		OperationID: "list-orders", Summary: "List the caller's orders, newest first",
		Method: http.MethodGet, Path: "/api/orders",
		Security: session.Required,
	}, s.list)
	huma.Register(api, huma.Operation{
		OperationID: "get-order", Summary: "Show an order of the caller's",
		Method: http.MethodGet, Path: "/api/orders/{id}",
		Security: session.Required,
		Errors:   []int{http.StatusNotFound, http.StatusForbidden},
	}, s.get)
	huma.Register(api, huma.Operation{
		OperationID: "cancel-order", Summary: "Cancel an order that is not complete",
		Method: http.MethodDelete, Path: "/api/orders/{id}", DefaultStatus: http.StatusNoContent,
		Security: session.Required,
		Errors:   []int{http.StatusNotFound, http.StatusForbidden, http.StatusConflict},
	}, s.delete)
}

// Order is an order on the wire.
type Order struct {
	ID        string        `json:"id"`
	Status    string        `json:"status" enum:"created,complete,cancelled"`
	UserID    string        `json:"userId" doc:"The buyer"`
	ExpiresAt time.Time     `json:"expiresAt" doc:"When the order is cancelled unless it is complete"`
	Version   int64         `json:"version" doc:"0, then one more with every change"`
	Ticket    OrderedTicket `json:"ticket"`
}

// OrderedTicket is a ticket as it was when it was ordered, on the wire.
type OrderedTicket struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Price price  `json:"price"`
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
	TicketID string `json:"ticketId"`
}

// Validate implements web's validation of bodies.
func (in OrderInput) Validate() []web.Field {
	if strings.TrimSpace(in.TicketID) == "" {
		return []web.Field{{Name: "ticketId", Message: "TicketId must be provided"}}
	}
	return nil
}

type orderOutput struct{ Body Order }

func (s *Server) create(ctx context.Context, in *struct{ Body OrderInput }) (*orderOutput, error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	now := time.Now()

	// A look before the transaction turns away, without a write, all but the
	// first of the many who want the same ticket.
	t, taken, err := store.Ticket(ctx, s.db, in.Body.TicketID)
	if err != nil {
		return nil, problem(err, "Ticket not found")
	}
	o, err := order.Place(id.String(), caller.ID, t, now, s.expiration)
	if err == nil && taken {
		err = order.ErrTaken
	}
	if err != nil {
		return nil, problem(err, "")
	}

	err = s.db.InTx(ctx, func(tx *database.Tx) error {
		// The lock keeps the ticket from being deleted or edited unseen, and
		// tells of what was since the look.
		t, err := store.LockTicket(ctx, tx, in.Body.TicketID)
		if err != nil {
			return err
		}
		if o, err = order.Place(id.String(), caller.ID, t, now, s.expiration); err != nil {
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
		return s.outbox.Publish(ctx, tx, expiration{OrderID: o.ID}, event.At(o.ExpiresAt))
	})
	if err != nil {
		return nil, problem(err, "Ticket not found")
	}
	return &orderOutput{Body: onWire(o)}, nil
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
	ID string `path:"id"`
}) (*orderOutput, error) {
	o, err := own(ctx, s.db, in.ID)
	if err != nil {
		return nil, err
	}
	return &orderOutput{Body: onWire(o)}, nil
}

func (s *Server) delete(ctx context.Context, in *struct {
	ID string `path:"id"`
}) (*struct{}, error) {
	err := s.db.InTx(ctx, func(tx *database.Tx) error {
		o, err := own(ctx, tx, in.ID)
		if err != nil {
			return err
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
