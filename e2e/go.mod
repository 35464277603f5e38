module github.com/turnstile-go/turnstile/e2e

go 1.26.0

require github.com/turnstile-go/turnstile/framework v0.0.0

replace github.com/turnstile-go/turnstile/framework => ../framework
