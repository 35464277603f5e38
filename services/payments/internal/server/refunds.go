package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

// keptMoney is a payment whose refund failed, as operators see it.
type keptMoney struct {
	ID       string `json:"id"`
	OrderID  string `json:"orderId"`
	ChargeID string `json:"chargeId"` // the provider's
	Amount   int64  `json:"amount"`   // minor units
	Currency string `json:"currency"`
	Reason   string `json:"reason"`
}

// Debug has the pages for operators:
//
//	GET  /debug/refunds/          the payments whose refunds failed, a hundred at most
//	POST /debug/refunds/returned  {"id": "…"}: the money of that payment was given back in another way
//
// It asks nobody who they are: the admin port is for operators only. Requests
// that a browser makes for another site are refused.
func (r *Recovery) Debug() map[string]http.Handler {
	const path = "/debug/refunds/"
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path+"{$}", func(w http.ResponseWriter, q *http.Request) { r.list(q.Context(), w) })
	mux.HandleFunc("POST "+path+"returned", func(w http.ResponseWriter, q *http.Request) {
		var in struct{ ID string }
		if err := json.NewDecoder(http.MaxBytesReader(w, q.Body, 4096)).Decode(&in); err != nil || in.ID == "" {
			http.Error(w, `the body must be {"id": "…"}, with the id of a payment`, http.StatusBadRequest)
			return
		}
		now, err := r.server.write(q.Context(), in.ID, func(ctx context.Context, tx *database.Tx) (payment.Payment, error) {
			return r.server.returned(ctx, tx, in.ID, store.ReturnedByHand)
		})
		switch {
		case errors.Is(err, store.ErrNotFound):
			http.Error(w, "there is no payment "+in.ID, http.StatusNotFound)
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case now.Return != payment.ByHand: // once it is, whoever asks again is told the same
			http.Error(w, "no refund of payment "+in.ID+" has failed", http.StatusConflict)
		default:
			r.list(q.Context(), w)
		}
	})
	return map[string]http.Handler{path: http.NewCrossOriginProtection().Handler(mux)}
}

// list answers with what is left to be given back by hand.
func (r *Recovery) list(ctx context.Context, w http.ResponseWriter) {
	kept, err := store.Kept(ctx, r.server.db)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	all := make([]keptMoney, len(kept))
	for i, p := range kept {
		all[i] = keptMoney{p.ID, p.OrderID, p.ChargeID, p.Amount, p.Currency, p.Reason}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(all) // the client may have gone
}
