// Command auth is the auth service: who somebody is, and the sessions that
// prove it to the other services.
package main

import (
	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/services/auth/service"
)

func main() { framework.Main("auth", service.New) }
