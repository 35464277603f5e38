// Command beta says who it is.
package main

import (
	"github.com/turnstile-go/turnstile/framework"

	"example.com/loop/beta/service"
)

func main() { framework.Main("beta", service.New) }
