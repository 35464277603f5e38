package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/tickets"
	"github.com/turnstile-go/turnstile/services/tickets/internal/store"
	"github.com/turnstile-go/turnstile/services/tickets/internal/ticket"
)

// Routes registers the service's operations.
func (s *Server) Routes(api huma.API) {
	api.OpenAPI().Info.Description = "What sellers offer, for everybody to see. A ticket that is ordered is reserved; a reserved or sold " +
		"one is listed to nobody but its seller, and is as it is."
	notFound, notSeller := web.NotFound("Ticket not found"), web.Forbidden("This ticket is somebody else's")
	huma.Register(api, huma.Operation{
		OperationID: "list-tickets", Summary: "List the tickets that can be bought, newest first",
		Description: "Those that are reserved or sold are left out.",
		Method:      http.MethodGet, Path: "/api/tickets",
	}, s.list)
	huma.Register(api, huma.Operation{
		OperationID: "list-my-tickets", Summary: "List the caller's own tickets in every state, newest first",
		Description: "Those that have an `orderId` are reserved or sold.",
		Method:      http.MethodGet, Path: "/api/tickets/mine",
		Security: session.Required,
	}, s.mine)
	huma.Register(api, huma.Operation{
		OperationID: "get-ticket", Summary: "Show a ticket",
		Description: "Also one that is reserved or sold.",
		Method:      http.MethodGet, Path: "/api/tickets/{id}",
		Responses: web.Problems(notFound),
	}, s.get)
	huma.Register(api, huma.Operation{
		OperationID: "create-ticket", Summary: "Offer a ticket for sale",
		Description: "The caller becomes its seller.",
		Method:      http.MethodPost, Path: "/api/tickets", DefaultStatus: http.StatusCreated,
		Security: session.Required,
	}, s.create)
	huma.Register(api, huma.Operation{
		OperationID: "edit-ticket", Summary: "Change a ticket's title and price",
		Description: "Both are given, changed or not; what is as it was before makes no new version. With `If-Match`, only the version " +
			"with that `ETag` is changed.",
		Method: http.MethodPut, Path: "/api/tickets/{id}",
		Security:  session.Required,
		Responses: web.Problems(notFound, notSeller, web.Conflict("Cannot edit a reserved ticket"), stale()),
	}, s.edit)
	huma.Register(api, huma.Operation{
		OperationID: "delete-ticket", Summary: "Take a ticket off the market for good",
		Description: "One that is reserved or sold stays.",
		Method:      http.MethodDelete, Path: "/api/tickets/{id}", DefaultStatus: http.StatusNoContent,
		Security:  session.Required,
		Responses: web.Problems(notFound, notSeller, web.Conflict("Cannot delete a reserved ticket"), stale()),
	}, s.delete)
}

// Ticket is a ticket on the wire.
type Ticket struct {
	ID      string `json:"id" example:"019aaf3e-7c1b-7d2e-9a41-5c0d3f6b8e21"`
	Title   string `json:"title" example:"A concert"`
	Price   price  `json:"price" example:"19.99"`
	UserID  string `json:"userId" doc:"The seller" example:"019aaf3d-52f0-7a11-8c3e-2b9d4e7f6a10"`
	Version int64  `json:"version" doc:"0, then one more with every change" minimum:"0" example:"0"`
	OrderID string `json:"orderId,omitempty" doc:"The order that holds or bought the ticket"`
}

func onWire(t ticket.Ticket) Ticket {
	return Ticket{ID: t.ID, Title: t.Title, Price: price{t.Price}, UserID: t.UserID, Version: t.Version, OrderID: t.OrderID}
}

// price is a ticket.Price with a schema.
type price struct{ ticket.Price }

// Schema implements huma.SchemaProvider.
func (price) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeNumber, Description: "A decimal number with at most two places"}
}

// TicketInput is what a seller says of a ticket.
type TicketInput struct {
	Title string     `json:"title" doc:"Not blank" minLength:"1" maxLength:"200" example:"A concert"`
	Price priceInput `json:"price" example:"19.99"`
}

// Validate implements web's validation of bodies.
func (in TicketInput) Validate() (fields []web.Field) {
	if err := ticket.CheckTitle(in.Title); err != nil {
		fields = append(fields, web.Field{Name: "title", Message: err.Error()})
	}
	if err := in.Price.check(); err != nil {
		fields = append(fields, web.Field{Name: "price", Message: err.Error()})
	}
	return fields
}

// priceInput takes every JSON value, so that what is wrong with a price is
// reported together with everything else.
type priceInput struct {
	ticket.Price
	err error
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *priceInput) UnmarshalJSON(text []byte) error {
	p.err = p.Price.UnmarshalJSON(text)
	return nil
}

func (p priceInput) check() error {
	if p.err == nil && p.Price == 0 {
		return ticket.ErrPrice // there was none
	}
	return p.err
}

// Schema implements huma.SchemaProvider.
func (priceInput) Schema(huma.Registry) *huma.Schema {
	none, most := 0.0, 1_000_000.0
	return &huma.Schema{
		Description: "A decimal number with at most two places, or the text of one",
		OneOf:       []*huma.Schema{{Type: huma.TypeNumber, ExclusiveMinimum: &none, Maximum: &most}, {Type: huma.TypeString}},
	}
}

func output(t ticket.Ticket) *web.Versioned[Ticket] {
	return &web.Versioned[Ticket]{ETag: web.ETag(t.Version), Body: onWire(t)}
}

// page answers with one page of the tickets that read returns.
func page(p web.Page, read func(after string, limit int) ([]ticket.Ticket, error)) (*web.Listing[Ticket], error) {
	return web.NewestFirst(p, read, func(t ticket.Ticket) string { return t.ID }, onWire)
}

func (s *Server) list(ctx context.Context, in *struct {
	web.Page
	Query string `query:"q" doc:"Text that the title contains, in whatever letter case" example:"concert"`
}) (*web.Listing[Ticket], error) {
	return page(in.Page, func(after string, limit int) ([]ticket.Ticket, error) {
		return store.ForSale(ctx, s.db, in.Query, after, limit)
	})
}

func (s *Server) mine(ctx context.Context, in *struct{ web.Page }) (*web.Listing[Ticket], error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return nil, err
	}
	return page(in.Page, func(after string, limit int) ([]ticket.Ticket, error) {
		return store.Owned(ctx, s.db, caller.ID, after, limit)
	})
}

func (s *Server) get(ctx context.Context, in *struct {
	ID string `path:"id" example:"019aaf3e-7c1b-7d2e-9a41-5c0d3f6b8e21"`
}) (*web.Versioned[Ticket], error) {
	t, err := store.Get(ctx, s.db, in.ID)
	if err != nil {
		return nil, problem(err)
	}
	return output(t), nil
}

func (s *Server) create(ctx context.Context, in *struct{ Body TicketInput }) (*web.Created[Ticket], error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	t := ticket.Ticket{ID: id.String(), Title: in.Body.Title, Price: in.Body.Price.Price, UserID: caller.ID}
	return web.Create(ctx, s.db, func(tx *database.Tx) (*web.Created[Ticket], error) {
		if err := store.Insert(ctx, tx, t); err != nil {
			return nil, err
		}
		err := s.outbox.Publish(ctx, tx, tickets.Created{
			ID: t.ID, Title: t.Title, Price: int64(t.Price), UserID: t.UserID, Version: t.Version,
		})
		return &web.Created[Ticket]{Location: "/api/tickets/" + t.ID, ETag: web.ETag(t.Version), Body: onWire(t)}, err
	})
}

func (s *Server) edit(ctx context.Context, in *struct {
	ID string `path:"id" example:"019aaf3e-7c1b-7d2e-9a41-5c0d3f6b8e21"`
	web.Precondition
	Body TicketInput
}) (*web.Versioned[Ticket], error) {
	var t ticket.Ticket
	err := s.db.InTx(ctx, func(tx *database.Tx) (err error) {
		if t, err = lockOwn(ctx, tx, in.ID); err != nil {
			return err
		}
		before := t.Version
		changed, err := t.Edit(in.Body.Title, in.Body.Price.Price)
		switch {
		case errors.Is(err, ticket.ErrReserved):
			return web.Conflict("Cannot edit a reserved ticket")
		case err != nil:
			return err
		case !in.Holds(before):
			return stale()
		case !changed:
			return nil
		}
		return s.changed(ctx, tx, t)
	})
	if err != nil {
		return nil, problem(err)
	}
	return output(t), nil
}

func (s *Server) delete(ctx context.Context, in *struct {
	ID string `path:"id" example:"019aaf3e-7c1b-7d2e-9a41-5c0d3f6b8e21"`
	web.Precondition
}) (*struct{}, error) {
	err := s.db.InTx(ctx, func(tx *database.Tx) error {
		t, err := lockOwn(ctx, tx, in.ID)
		if err != nil {
			return err
		}
		before := t.Version
		err = t.Delete()
		switch {
		case errors.Is(err, ticket.ErrReserved):
			return web.Conflict("Cannot delete a reserved ticket")
		case err != nil:
			return err
		case !in.Holds(before):
			return stale()
		}
		if err := store.Delete(ctx, tx, t.ID); err != nil {
			return err
		}
		return s.outbox.Publish(ctx, tx, tickets.Deleted{ID: t.ID, Version: t.Version})
	})
	return nil, problem(err)
}

// lockOwn locks a ticket of the caller's.
func lockOwn(ctx context.Context, tx *database.Tx, id string) (ticket.Ticket, error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return ticket.Ticket{}, err
	}
	t, err := store.Lock(ctx, tx, id)
	if err != nil {
		return ticket.Ticket{}, err
	}
	if t.UserID != caller.ID {
		return ticket.Ticket{}, web.Forbidden("This ticket is somebody else's")
	}
	return t, nil
}

// stale answers a request whose If-Match does not hold.
func stale() *web.Problem { return web.PreconditionFailed("The ticket was changed meanwhile") }

// problem says to the caller what the store found.
func problem(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return web.NotFound("Ticket not found")
	}
	return err
}
