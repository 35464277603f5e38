// Package stripe is the payment provider Stripe, by its PaymentIntents:
// https://docs.stripe.com/api/payment_intents.
//
// Each payment is one PaymentIntent, which is created and confirmed by one
// request. Nobody is there to confirm it in another way: what the card's issuer
// wants to hear from its holder beyond that is a payment that is declined.
package stripe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	stripe "github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"

	"github.com/turnstile-go/turnstile/framework/secret"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
)

// Config is the account at Stripe.
type Config struct {
	Key           secret.String `env:"STRIPE_KEY" doc:"the secret key of the Stripe account, or a restricted one that may write PaymentIntents, PaymentMethods and Refunds" example:"sk_test_example"`
	WebhookSecret secret.String `env:"STRIPE_WEBHOOK_SECRET" doc:"the signing secret of the webhook endpoint /api/payments/webhooks/stripe" example:"whsec_example"`
	APIBase       string        `env:"STRIPE_API_BASE" envDefault:"https://api.stripe.com" doc:"where Stripe's API is: a test's own server, for example"`
}

// Provider is Stripe. It is a payment.Provider.
type Provider struct {
	client  *stripe.Client
	http    *http.Client
	key     secret.String
	webhook secret.String
}

// New returns the provider for an account. It does no I/O. Everything that is
// missing or wrong in cfg is in the error, by the names of the variables.
func New(cfg Config) (*Provider, error) {
	base, err := url.Parse(cfg.APIBase)
	var wrong []error
	if cfg.Key.Reveal() == "" {
		wrong = append(wrong, errors.New("STRIPE_KEY is missing: it is the secret key of the account at Stripe"))
	}
	if cfg.WebhookSecret.Reveal() == "" {
		wrong = append(wrong, errors.New("STRIPE_WEBHOOK_SECRET is missing: Stripe shows it with the webhook endpoint"))
	}
	switch {
	case err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http":
		wrong = append(wrong, fmt.Errorf("STRIPE_API_BASE is %q: it must be a URL such as %s", cfg.APIBase, stripe.APIURL))
	case base.Scheme == "http" && strings.Contains(cfg.Key.Reveal(), "_live_"):
		wrong = append(wrong, fmt.Errorf("STRIPE_API_BASE is %q: a live key is sent over https only", cfg.APIBase))
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	p := &Provider{key: cfg.Key, webhook: cfg.WebhookSecret}
	p.http = &http.Client{
		Transport:     http.DefaultTransport.(*http.Transport).Clone(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	p.client = stripe.NewClient(cfg.Key.Reveal(), stripe.WithBackends(stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		URL:               stripe.String(strings.TrimSuffix(cfg.APIBase, "/")),
		HTTPClient:        p.http,
		MaxNetworkRetries: stripe.Int64(0), // it sleeps whatever the context says: see try
		EnableTelemetry:   stripe.Bool(false),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull}, // errors are returned
	})))
	return p, nil
}

// Run keeps connections to Stripe until ctx is done. It makes the provider a part
// of the service.
func (p *Provider) Run(ctx context.Context) error {
	<-ctx.Done()
	p.http.CloseIdleConnections()
	return nil
}

// Our ids in the metadata of what we make at Stripe.
const (
	metaPayment = "payment"
	metaOrder   = "order"
)

// Stripe keeps an idempotency key for at least 24 hours
// (https://docs.stripe.com/api/idempotent_requests). Asked later, it would take
// the money again: so it is not asked, but searched for what it has. The search
// can be an hour behind (https://docs.stripe.com/search#data-freshness).
const (
	askFor    = 23 * time.Hour
	findAfter = askFor + time.Hour
)

const (
	reasonUnknownToken   = "The payment token is unknown"
	reasonRefused        = "The payment provider refuses this payment"
	reasonDeclined       = "Your card was declined"
	reasonAuthentication = "Your card has to be confirmed with your bank, which is not possible here; please use another card"
	reasonNotMade        = "The payment could not be made in time"
)

// Charge implements payment.Provider. Its id is that of a PaymentIntent.
//
// A token is that of a PaymentMethod (pm_…) or one of the older kind (tok_…).
func (p *Provider) Charge(ctx context.Context, c payment.Charge) (id string, err error) {
	age := time.Duration(0)
	if !c.Begun.IsZero() {
		age = time.Since(c.Begun)
	}
	var intent *stripe.PaymentIntent
	if age > askFor {
		intent, err = p.find(ctx, c, age)
	} else {
		intent, err = p.create(ctx, c)
		err = declined(err)
	}
	if err == nil {
		id, err = p.outcome(ctx, c, intent)
	}
	if err != nil {
		return "", fmt.Errorf("stripe: charge %s: %w", c.Key, err)
	}
	return id, nil
}

// create makes and confirms the PaymentIntent or, asked again, returns it as it
// was when it was made.
func (p *Provider) create(ctx context.Context, c payment.Charge) (*stripe.PaymentIntent, error) {
	method := c.Token
	if !strings.HasPrefix(method, "pm_") {
		made, err := try(ctx, p, func() (*stripe.PaymentMethod, error) {
			params := &stripe.PaymentMethodCreateParams{
				Type: stripe.String(string(stripe.PaymentMethodTypeCard)),
				Card: &stripe.PaymentMethodCreateCardParams{Token: stripe.String(c.Token)},
			}
			params.SetIdempotencyKey(c.Key + "-method")
			return p.client.V1PaymentMethods.Create(ctx, params)
		})
		if err != nil {
			return nil, err
		}
		method = made.ID
	}
	return try(ctx, p, func() (*stripe.PaymentIntent, error) {
		params := &stripe.PaymentIntentCreateParams{
			Amount:                stripe.Int64(c.Amount),
			Currency:              stripe.String(c.Currency),
			PaymentMethod:         stripe.String(method),
			PaymentMethodTypes:    []*string{stripe.String(string(stripe.PaymentMethodTypeCard))},
			Confirm:               stripe.Bool(true),
			ErrorOnRequiresAction: stripe.Bool(true),
			Description:           stripe.String("Order " + c.OrderID),
			Metadata:              map[string]string{metaPayment: c.PaymentID, metaOrder: c.OrderID},
		}
		params.SetIdempotencyKey(c.Key)
		return p.client.V1PaymentIntents.Create(ctx, params)
	})
}

// find searches for the PaymentIntent of a payment that was begun long ago.
func (p *Provider) find(ctx context.Context, c payment.Charge, age time.Duration) (*stripe.PaymentIntent, error) {
	found, err := try(ctx, p, func() (found *stripe.PaymentIntent, err error) {
		params := &stripe.PaymentIntentSearchParams{SearchParams: stripe.SearchParams{
			Query: fmt.Sprintf("metadata['%s']:'%s'", metaPayment, c.PaymentID),
		}}
		for intent, err := range p.client.V1PaymentIntents.Search(ctx, params).All(ctx) {
			if err != nil || intent.Metadata[metaPayment] == c.PaymentID {
				return intent, err
			}
		}
		return nil, nil
	})
	switch {
	case err != nil:
		return nil, err
	case found != nil:
		return found, nil
	case age < findAfter:
		return nil, errors.New("it cannot be found yet")
	}
	return nil, &payment.DeclinedError{Reason: reasonNotMade}
}

// outcome returns what became of a PaymentIntent.
func (p *Provider) outcome(ctx context.Context, c payment.Charge, intent *stripe.PaymentIntent) (id string, err error) {
	if intent.Status != stripe.PaymentIntentStatusSucceeded {
		// The answer to a request that was made before is the one of then.
		intent, err = try(ctx, p, func() (*stripe.PaymentIntent, error) {
			return p.client.V1PaymentIntents.Retrieve(ctx, intent.ID, nil)
		})
		if err != nil {
			return "", err
		}
	}
	if intent.Metadata[metaPayment] != c.PaymentID || intent.Amount != c.Amount || string(intent.Currency) != c.Currency {
		return "", fmt.Errorf("the answer, PaymentIntent %q of %d %s, is about something else", intent.ID, intent.Amount, intent.Currency)
	}
	switch intent.Status {
	case stripe.PaymentIntentStatusSucceeded:
		return intent.ID, nil
	case stripe.PaymentIntentStatusRequiresPaymentMethod, stripe.PaymentIntentStatusCanceled:
		return "", &payment.DeclinedError{Reason: reasonOf(intent)}
	case stripe.PaymentIntentStatusProcessing:
		return "", fmt.Errorf("PaymentIntent %s is being processed", intent.ID)
	}
	// It waits for the card's holder, who is not here.
	canceled, err := try(ctx, p, func() (*stripe.PaymentIntent, error) {
		params := &stripe.PaymentIntentCancelParams{CancellationReason: stripe.String("abandoned")}
		params.SetIdempotencyKey(c.Key + "-cancel")
		return p.client.V1PaymentIntents.Cancel(ctx, intent.ID, params)
	})
	if err != nil {
		// Whatever the reason is, the PaymentIntent can still succeed.
		return "", fmt.Errorf("cancel PaymentIntent %s: %w", intent.ID, err)
	}
	if canceled.Status != stripe.PaymentIntentStatusCanceled {
		return "", fmt.Errorf("PaymentIntent %s was to be canceled and is %s", intent.ID, canceled.Status)
	}
	return "", &payment.DeclinedError{Reason: reasonAuthentication}
}

// Refund implements payment.Provider.
func (p *Provider) Refund(ctx context.Context, r payment.Refund) error {
	refund, err := try(ctx, p, func() (*stripe.Refund, error) {
		params := &stripe.RefundCreateParams{
			PaymentIntent: stripe.String(r.ChargeID), // all that is left of it
			Metadata:      map[string]string{metaPayment: r.PaymentID},
		}
		params.SetIdempotencyKey(r.Key)
		return p.client.V1Refunds.Create(ctx, params)
	})
	if err == nil && refund.Status != stripe.RefundStatusSucceeded {
		refund, err = try(ctx, p, func() (*stripe.Refund, error) { return p.client.V1Refunds.Retrieve(ctx, refund.ID, nil) })
	}
	refused, _ := errors.AsType[*refusal](err)
	switch {
	case refused != nil && refused.answer.Code == stripe.ErrorCodeChargeAlreadyRefunded:
		err = p.refunded(ctx, r)
	case refused != nil && refused.answer.Code == stripe.ErrorCodeResourceMissing:
		err = payment.ErrNoCharge
	case refused != nil && refused.answer.Type == stripe.ErrorTypeIdempotency:
		err = payment.ErrKeyUsed
	case err != nil:
	case refund.Metadata[metaPayment] != r.PaymentID:
		err = fmt.Errorf("the answer, refund %q, is about something else", refund.ID)
	default:
		err = gone(refund)
	}
	if err != nil {
		return fmt.Errorf("stripe: refund %s of %s: %w", r.Key, r.ChargeID, err)
	}
	return nil
}

// refunded returns nil if all the money of a charge of which nothing is left to
// be refunded has gone. A refund that has not succeeded yet counts for Stripe.
func (p *Provider) refunded(ctx context.Context, r payment.Refund) error {
	type result struct {
		gone    int64
		waiting error
	}
	all, err := try(ctx, p, func() (all result, err error) {
		params := &stripe.RefundListParams{PaymentIntent: stripe.String(r.ChargeID)}
		for refund, err := range p.client.V1Refunds.List(ctx, params).All(ctx) {
			if err != nil {
				return all, err
			}
			if unfinished := gone(refund); unfinished == nil {
				all.gone += refund.Amount
			} else if _, failed := errors.AsType[*payment.NotReturnedError](unfinished); !failed {
				all.waiting = unfinished
			}
		}
		return all, nil
	})
	switch {
	case err != nil:
		return err
	case all.gone >= r.Amount:
		return nil
	case all.waiting != nil:
		return all.waiting
	}
	return fmt.Errorf("nothing is left to be refunded, and only %d of %d have gone back", all.gone, r.Amount)
}

// gone returns nil if the money of a refund has gone.
func gone(r *stripe.Refund) error {
	switch r.Status {
	case stripe.RefundStatusSucceeded:
		return nil
	case stripe.RefundStatusFailed, stripe.RefundStatusCanceled:
		return &payment.NotReturnedError{Reason: failure(r)}
	}
	return fmt.Errorf("%s is %s", r.ID, r.Status)
}

// failure is why a refund failed.
func failure(r *stripe.Refund) string { return cmp.Or(string(r.FailureReason), string(r.Status)) }

// reasonOf tells people why nothing was taken.
func reasonOf(intent *stripe.PaymentIntent) string {
	if intent.LastPaymentError == nil {
		return reasonNotMade
	}
	return reasonFor(intent.LastPaymentError)
}

func reasonFor(e *stripe.Error) string {
	switch {
	case e.Code == stripe.ErrorCodeAuthenticationRequired, e.Code == stripe.ErrorCodePaymentIntentAuthenticationFailure,
		e.DeclineCode == "authentication_required", e.DeclineCode == "authentication_not_handled":
		return reasonAuthentication
	case e.Type != stripe.ErrorTypeCard || e.Msg == "":
		return reasonDeclined
	}
	return strings.TrimSuffix(e.Msg, ".")
}

// maxTries is how often Stripe is asked within one call. What fails then is asked
// again by who called.
const maxTries = 3

// try asks Stripe, again when it is worth it, until ctx is done. An error that
// Stripe has answered with is a *refusal. None holds a secret.
func try[T any](ctx context.Context, p *Provider, ask func() (T, error)) (T, error) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, time.Second
	var last error
	answer, err := backoff.Retry(ctx, func() (answer T, err error) {
		if answer, err = ask(); err == nil {
			return answer, nil
		}
		last = p.safe(err)
		if r, ok := errors.AsType[*refusal](last); ok && !r.passing() || ctx.Err() != nil {
			return answer, backoff.Permanent(last)
		}
		return answer, last
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(maxTries), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return answer, last // also where err is only that ctx is done
	}
	return answer, nil
}

// safe returns an error of the library without what is nobody's business: its own
// texts have all of the answer, which has secrets of the payment's, and an answer
// that is garbage may have our key.
func (p *Provider) safe(err error) error {
	e, answered := errors.AsType[*stripe.Error](err)
	text := err.Error()
	if answered {
		text = e.Msg
	}
	text = strings.ReplaceAll(text, p.key.Reveal(), "***")
	switch {
	case answered:
		return &refusal{e, text}
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s", context.DeadlineExceeded, text)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: %s", context.Canceled, text)
	}
	return errors.New(text)
}

// refusal is an error that Stripe has answered with.
type refusal struct {
	answer *stripe.Error // whose own text is not for the log
	text   string
}

// Error implements error.
func (r *refusal) Error() string {
	e := r.answer
	if r.account() { // whose text shows a part of the key
		return fmt.Sprintf("status %d, request %q: STRIPE_KEY is not accepted, or may not do this", e.HTTPStatusCode, e.RequestID)
	}
	return fmt.Sprintf("status %d, type %q, code %q, request %q: %s", e.HTTPStatusCode, e.Type, e.Code, e.RequestID, r.text)
}

// passing reports whether the same request can succeed soon.
func (r *refusal) passing() bool {
	status := r.answer.HTTPStatusCode
	return status == http.StatusConflict || status == http.StatusTooManyRequests || status >= 500
}

// account reports whether what is wrong is the key, and not the request.
func (r *refusal) account() bool {
	return r.answer.HTTPStatusCode == http.StatusUnauthorized || r.answer.HTTPStatusCode == http.StatusForbidden
}

// declined returns an error of create as payment.Provider has it.
func declined(err error) error {
	r, ok := errors.AsType[*refusal](err)
	switch {
	case !ok || r.passing() || r.account():
		return err
	case r.answer.Type == stripe.ErrorTypeIdempotency:
		return fmt.Errorf("%w: %w", payment.ErrKeyUsed, err)
	case r.answer.Type == stripe.ErrorTypeCard:
		return &payment.DeclinedError{Reason: reasonFor(r.answer)}
	case r.answer.Code == stripe.ErrorCodeResourceMissing:
		return &payment.DeclinedError{Reason: reasonUnknownToken}
	case r.answer.Type == stripe.ErrorTypeInvalidRequest:
		return &payment.DeclinedError{Reason: reasonRefused, Err: err}
	}
	return err
}

// ErrSignature says that a message is not from Stripe, or is too old.
var ErrSignature = errors.New("stripe: the signature is not valid")

// News reads a message to our webhook endpoint
// (https://docs.stripe.com/webhooks), whose signature is the one in the header
// Stripe-Signature. It returns nil for what is nothing to us, and ErrSignature
// if the message is not to be believed.
func (p *Provider) News(body []byte, signature string) (*payment.News, error) {
	event, err := webhook.ConstructEventWithOptions(body, signature, p.webhook.Reveal(), webhook.ConstructEventOptions{
		Tolerance: webhook.DefaultTolerance,
		// The endpoint may have another version than the library; what is read here is the same in all.
		IgnoreAPIVersionMismatch: true,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if event.Data == nil {
		return nil, nil
	}
	switch event.Type {
	case stripe.EventTypePaymentIntentSucceeded, stripe.EventTypePaymentIntentPaymentFailed, stripe.EventTypePaymentIntentCanceled:
		var intent stripe.PaymentIntent
		if err := json.Unmarshal(event.Data.Raw, &intent); err != nil {
			return nil, fmt.Errorf("stripe: event %s: %w", event.ID, err)
		}
		n := &payment.News{PaymentID: intent.Metadata[metaPayment], Result: payment.NotTaken, Reason: reasonOf(&intent)}
		if event.Type == stripe.EventTypePaymentIntentSucceeded {
			n = &payment.News{
				PaymentID: n.PaymentID, Result: payment.Taken,
				ChargeID: intent.ID, Amount: intent.AmountReceived, Currency: string(intent.Currency),
			}
		}
		return ours(n), nil
	case stripe.EventTypeRefundUpdated, stripe.EventTypeRefundFailed, stripe.EventTypeChargeRefundUpdated:
		var refund stripe.Refund
		if err := json.Unmarshal(event.Data.Raw, &refund); err != nil {
			return nil, fmt.Errorf("stripe: event %s: %w", event.ID, err)
		}
		n := &payment.News{PaymentID: refund.Metadata[metaPayment]}
		switch refund.Status {
		case stripe.RefundStatusSucceeded:
			n.Result = payment.Returned
		case stripe.RefundStatusFailed, stripe.RefundStatusCanceled:
			n.Result, n.Reason = payment.NotReturned, failure(&refund)
		default:
			return nil, nil
		}
		return ours(n), nil
	}
	return nil, nil
}

// ours returns nil for news of what somebody else does with the account.
func ours(n *payment.News) *payment.News {
	if n.PaymentID == "" {
		return nil
	}
	return n
}
