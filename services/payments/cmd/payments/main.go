// Command payments is the payments service: it takes the money for orders.
package main

import (
	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/services/payments/service"
)

func main() { framework.Main("payments", service.New) }
