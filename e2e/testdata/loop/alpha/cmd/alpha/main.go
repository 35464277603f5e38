// Command alpha says who it is.
package main

import (
	"github.com/turnstile-go/turnstile/framework"

	"example.com/loop/alpha/service"
)

func main() { framework.Main("alpha", service.New) }
