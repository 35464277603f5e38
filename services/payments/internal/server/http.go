package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

// Routes registers the service's operations.
func (s *Server) Routes(api huma.API) {
	api.OpenAPI().Info.Description = "Payments of orders. An order is charged once, however often it is tried and whatever fails meanwhile; money " +
		"for an order that could not be completed goes back."
	huma.Register(api, huma.Operation{
		OperationID: "create-payment", Summary: "Pay an order",
		Description: "Of several who try at the same time one succeeds. An order whose payment is declined can be paid in another way.",
		Method:      http.MethodPost, Path: "/api/payments", DefaultStatus: http.StatusCreated,
		Security: session.Required,
		Responses: web.Problems(
			web.PaymentRequired("Your card was declined."), web.NotFound("Order not found"), web.Forbidden("This order is somebody else's"),
			web.Conflict(payment.ErrCancelled.Error()), web.Conflict(payment.ErrExpired.Error()), web.Conflict(payment.ErrPaid.Error()),
			web.Conflict(payment.ErrUnderWay.Error()),
			web.Unavailable("The payment provider does not answer; the payment is pending", time.Minute),
		),
	}, s.create)
	huma.Register(api, huma.Operation{
		OperationID: "list-payments", Summary: "List the caller's payments, newest first",
		Description: "In every state, those that were declined included.",
		Method:      http.MethodGet, Path: "/api/payments",
		Security: session.Required,
	}, s.list)
}

// PaymentInput says what is to be paid, and with what.
type PaymentInput struct {
	OrderID string `json:"orderId" minLength:"1" example:"019aaf40-1e5d-7b63-a7f2-8d1c0b9e4f35"`
	Token   string `json:"token" doc:"The provider's token for the means of payment" minLength:"1" maxLength:"500" example:"tok_visa"`
}

// maxToken is far above the length of any provider's token.
const maxToken = 500

// Validate implements web's validation of bodies.
func (in PaymentInput) Validate() (fields []web.Field) {
	if strings.TrimSpace(in.OrderID) == "" {
		fields = append(fields, web.Field{Name: "orderId", Message: "OrderId is required"})
	}
	switch {
	case strings.TrimSpace(in.Token) == "":
		fields = append(fields, web.Field{Name: "token", Message: "Token is required"})
	case utf8.RuneCountInString(in.Token) > maxToken:
		fields = append(fields, web.Field{Name: "token", Message: "Token is too long"})
	}
	return fields
}

// PaymentID is a new payment on the wire.
type PaymentID struct {
	ID string `json:"id" example:"019aaf41-90ab-7c44-b2d8-6e5f1a3c7d82"`
}

// Payment is a payment on the wire.
type Payment struct {
	ID       string `json:"id" example:"019aaf41-90ab-7c44-b2d8-6e5f1a3c7d82"`
	OrderID  string `json:"orderId" example:"019aaf40-1e5d-7b63-a7f2-8d1c0b9e4f35"`
	Amount   int64  `json:"amount" doc:"In cents" minimum:"1" example:"1999"`
	Currency string `json:"currency" example:"usd"`
	Status   string `json:"status" enum:"pending,captured,declined,refunded" example:"captured"`
}

func onWire(p payment.Payment) Payment {
	return Payment{ID: p.ID, OrderID: p.OrderID, Amount: p.Amount, Currency: p.Currency, Status: string(p.Shown())}
}

type paymentOutput struct{ Body PaymentID }

// create is the whole way of a payment. If it ends in the middle, who repeats the
// request carries on with the same payment.
func (s *Server) create(ctx context.Context, in *struct{ Body PaymentInput }) (*paymentOutput, error) {
	return web.Once(ctx, s.db, func(keep func(context.Context, *database.Tx, *paymentOutput) error) (*paymentOutput, error) {
		p, err := s.begin(ctx, in.Body)
		if err != nil {
			return nil, err
		}
		out := &paymentOutput{Body: PaymentID{ID: p.ID}}
		p, err = s.charge(ctx, p, func(ctx context.Context, tx *database.Tx) error { return keep(ctx, tx, out) })
		if unanswered, ok := errors.AsType[*unansweredError](err); ok {
			s.log.LogAttrs(ctx, slog.LevelError, "a payment is pending",
				slog.String("payment", p.ID), slog.String("order", p.OrderID), slog.Any("error", unanswered))
			return nil, web.Unavailable("The payment provider does not answer; the payment is pending", time.Minute)
		}
		if err != nil {
			return nil, err
		}
		if p.Status == payment.Declined {
			return nil, web.PaymentRequired(p.Reason)
		}
		return out, nil
	})
}

// begin writes down the intent to pay, of which an order has one at a time.
// Nothing is asked of the provider that is not written down: whatever happens
// from here on, it is known what to ask the provider about, and by which key.
//
// A request that is repeated finds the intent that it has written before.
func (s *Server) begin(ctx context.Context, in PaymentInput) (payment.Payment, error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return payment.Payment{}, err
	}
	o, err := store.Order(ctx, s.db, in.OrderID)
	if errors.Is(err, store.ErrNotFound) {
		return payment.Payment{}, web.NotFound("Order not found")
	}
	if err != nil {
		return payment.Payment{}, err
	}
	if o.UserID != caller.ID {
		return payment.Payment{}, web.Forbidden("This order is somebody else's")
	}
	request := web.IdempotencyID(ctx)
	if request != "" {
		p, err := store.Live(ctx, s.db, o.ID)
		if err == nil && p.Request == request && p.Return == payment.NoReturn {
			return p, nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return payment.Payment{}, err
		}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return payment.Payment{}, err
	}
	p, err := payment.Begin(id.String(), o, in.Token, time.Now())
	if err == nil {
		p.Request = request
		err = s.db.InTx(ctx, func(tx *database.Tx) error { return store.Insert(ctx, tx, p, time.Now().Add(s.timeout)) })
	}
	if refusal, ok := errors.AsType[payment.Refusal](err); ok {
		return payment.Payment{}, web.Conflict(refusal.Error())
	}
	return p, err
}

func (s *Server) list(ctx context.Context, in *struct {
	web.Page
	OrderID string `query:"orderId" doc:"Only the payments of this order" example:"019aaf40-1e5d-7b63-a7f2-8d1c0b9e4f35"`
}) (*web.Listing[Payment], error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return nil, err
	}
	return web.NewestFirst(in.Page, func(after string, limit int) ([]payment.Payment, error) {
		return store.List(ctx, s.db, caller.ID, in.OrderID, after, limit)
	}, func(p payment.Payment) string { return p.ID }, onWire)
}
