// Command tickets is the tickets service: what is for sale, and to whom it is
// promised.
package main

import (
	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/services/tickets/service"
)

func main() { framework.Main("tickets", service.New) }
