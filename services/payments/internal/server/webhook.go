package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
	"github.com/turnstile-go/turnstile/services/payments/internal/stripe"
)

// StripeWebhook registers the operation by which Stripe tells what becomes of
// payments. The signature says who calls, so that no session is needed.
func (s *Server) StripeWebhook(api huma.API, account *stripe.Provider) {
	type input struct {
		Signature string `header:"Stripe-Signature" doc:"Signs the body, with the secret of the webhook endpoint"`
		RawBody   []byte `contentType:"application/json"`
	}
	type output struct {
		Body struct {
			Received bool `json:"received" example:"true"`
		}
	}
	huma.Register(api, huma.Operation{
		OperationID: "stripe-webhook", Summary: "Hear from Stripe what becomes of payments and refunds",
		Method: http.MethodPost, Path: "/api/payments/webhooks/stripe", DefaultStatus: http.StatusOK,
		Errors: []int{http.StatusBadRequest},
	}, func(ctx context.Context, in *input) (*output, error) {
		news, err := account.News(in.RawBody, in.Signature)
		if errors.Is(err, stripe.ErrSignature) {
			s.log.LogAttrs(ctx, slog.LevelWarn, "a message to the webhook is not believed", slog.Any("error", err))
			return nil, huma.Error400BadRequest("The signature is not valid")
		}
		if err == nil && news != nil {
			err = s.hear(ctx, *news)
		}
		if err != nil {
			return nil, err // Stripe tells it again
		}
		var out output
		out.Body.Received = true
		return &out, nil
	})
}

// hear writes down what the provider tells by itself. News comes more than once,
// late, and in any order: it is a fact about a payment, which is written down if
// it was not known. What cannot be so is for people to look at, and would not be
// otherwise if it were told again.
func (s *Server) hear(ctx context.Context, n payment.News) error {
	about := []slog.Attr{slog.String("payment", n.PaymentID), slog.String("news", string(n.Result))}
	wrong := func(what string) {
		s.log.LogAttrs(ctx, slog.LevelError, "the payment provider tells what cannot be",
			append(about, slog.String("because", what))...)
	}
	err := s.db.InTx(ctx, func(tx *database.Tx) error {
		p, err := store.Get(ctx, tx, n.PaymentID)
		if err != nil {
			return err
		}
		switch n.Result {
		case payment.Taken:
			switch {
			case n.Amount != p.Amount || n.Currency != p.Currency:
				wrong(fmt.Sprintf("%d %s were taken, of %d %s", n.Amount, n.Currency, p.Amount, p.Currency))
				return nil
			case p.ChargeID != "" && p.ChargeID != n.ChargeID:
				wrong(fmt.Sprintf("the money was taken by %s, and by %s", p.ChargeID, n.ChargeID))
				return nil
			}
			_, err = s.settled(ctx, tx, p.Capture(n.ChargeID))
		case payment.NotTaken:
			_, err = s.settled(ctx, tx, p.Decline(n.Reason))
		case payment.Returned:
			_, err = s.returned(ctx, tx, p.ID, store.Returned)
		case payment.NotReturned: // also after it has succeeded
			_, err = s.notReturned(ctx, tx, p.ID, n.Reason)
		}
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		wrong("there is no such payment")
		return nil
	}
	return err
}
