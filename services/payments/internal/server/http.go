package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

// Routes registers the service's operations.
func (s *Server) Routes(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "create-payment", Summary: "Pay an order",
		Method: http.MethodPost, Path: "/api/payments", DefaultStatus: http.StatusCreated,
		Security: session.Required,
		Errors: []int{
			http.StatusPaymentRequired, http.StatusForbidden, http.StatusNotFound, http.StatusConflict,
			http.StatusServiceUnavailable,
		},
	}, s.create)
	huma.Register(api, huma.Operation{
		OperationID: "list-payments", Summary: "List the caller's payments, newest first",
		Method: http.MethodGet, Path: "/api/payments",
		Security: session.Required,
	}, s.list)
}

// PaymentInput says what is to be paid, and with what.
type PaymentInput struct {
	OrderID string `json:"orderId"`
	Token   string `json:"token" doc:"The provider's token for the means of payment"`
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
	case len(in.Token) > maxToken:
		fields = append(fields, web.Field{Name: "token", Message: "Token is too long"})
	}
	return fields
}

// PaymentID is a new payment on the wire.
type PaymentID struct {
	ID string `json:"id"`
}

// Payment is a payment on the wire.
type Payment struct {
	ID       string `json:"id"`
	OrderID  string `json:"orderId"`
	Amount   int64  `json:"amount" doc:"In cents"`
	Currency string `json:"currency"`
	Status   string `json:"status" enum:"pending,captured,declined,refunded"`
}

func onWire(p payment.Payment) Payment {
	return Payment{ID: p.ID, OrderID: p.OrderID, Amount: p.Amount, Currency: p.Currency, Status: string(p.Status)}
}

type paymentOutput struct{ Body PaymentID }

func (s *Server) create(ctx context.Context, in *struct{ Body PaymentInput }) (*paymentOutput, error) {
	p, err := s.begin(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	p, err = s.settle(ctx, p)
	if err != nil {
		return nil, err
	}
	if p.Status == payment.Declined {
		return nil, web.PaymentRequired(p.Reason)
	}
	return &paymentOutput{Body: PaymentID{ID: p.ID}}, nil
}

// begin writes down the intent to pay, of which an order has one at a time.
// Nothing is asked of the provider that is not written down: whatever happens
// from here on, it is known what to ask the provider about, and by which key.
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
	id, err := uuid.NewV7()
	if err != nil {
		return payment.Payment{}, err
	}
	p, err := payment.Begin(id.String(), o, in.Token, time.Now())
	if err == nil {
		err = s.db.InTx(ctx, func(tx *database.Tx) error { return store.Insert(ctx, tx, p) })
	}
	if refusal, ok := errors.AsType[payment.Refusal](err); ok {
		return payment.Payment{}, web.Conflict(refusal.Error())
	}
	return p, err
}

// settle asks the provider for the money of a pending payment and writes down
// the answer, together with the event. It can be called for one payment by
// several, and again after a crash: the provider answers the same, and one of
// them writes it down. It returns the payment as it is then.
//
// The caller's departure does not stop it, because the provider's answer
// counts whether or not anybody waits for it.
func (s *Server) settle(ctx context.Context, p payment.Payment) (payment.Payment, error) {
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	charge, err := s.provider.Charge(asking, p.Charge())
	if declined, ok := errors.AsType[*payment.DeclinedError](err); ok {
		p = p.Decline(declined.Reason)
	} else if err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "payment is pending: the provider did not answer",
			slog.String("payment", p.ID), slog.String("order", p.OrderID), slog.Any("error", err))
		return payment.Payment{}, web.Unavailable("The payment provider does not answer; the payment is pending", time.Minute)
	} else {
		p = p.Capture(charge)
	}

	writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	var settled payment.Payment
	err = s.db.InTx(writing, func(tx *database.Tx) error {
		var changed bool
		var err error
		settled, changed, err = store.Settle(writing, tx, p)
		if err != nil || !changed || settled.Status != payment.Captured {
			return err
		}
		return s.outbox.Publish(writing, tx, payments.Captured{
			ID: settled.ID, OrderID: settled.OrderID, Amount: settled.Amount, Currency: settled.Currency,
		})
	})
	if err != nil {
		return payment.Payment{}, fmt.Errorf("settle payment %s of order %s: %w", p.ID, p.OrderID, err)
	}
	return settled, nil
}

func (s *Server) list(ctx context.Context, in *struct {
	web.Page
	OrderID string `query:"orderId" doc:"Only the payments of this order"`
}) (*web.Listing[Payment], error) {
	caller, err := session.Require(ctx)
	if err != nil {
		return nil, err
	}
	return web.NewestFirst(in.Page, func(after string, limit int) ([]payment.Payment, error) {
		return store.List(ctx, s.db, caller.ID, in.OrderID, after, limit)
	}, func(p payment.Payment) string { return p.ID }, onWire)
}
