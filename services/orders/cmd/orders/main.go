// Command orders is the orders service: who holds which ticket, and until when.
package main

import (
	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/services/orders/service"
)

func main() { framework.Main("orders", service.New) }
