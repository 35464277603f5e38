module github.com/turnstile-go/turnstile/services/orders

go 1.26.0

require (
	github.com/turnstile-go/turnstile/framework v0.0.0
	github.com/turnstile-go/turnstile/services/payments v0.0.0
	github.com/turnstile-go/turnstile/services/tickets v0.0.0
)

replace (
	github.com/turnstile-go/turnstile/framework => ../../framework
	github.com/turnstile-go/turnstile/services/payments => ../payments
	github.com/turnstile-go/turnstile/services/tickets => ../tickets
)
