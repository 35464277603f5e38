module github.com/turnstile-go/turnstile/services/payments

go 1.26.0

require (
	github.com/turnstile-go/turnstile/framework v0.0.0
	github.com/turnstile-go/turnstile/services/orders v0.0.0
)

replace (
	github.com/turnstile-go/turnstile/framework => ../../framework
	github.com/turnstile-go/turnstile/services/orders => ../orders
	github.com/turnstile-go/turnstile/services/tickets => ../tickets
)
