package framework_test

import (
	"context"
	"fmt"
	"time"

	"github.com/turnstile-go/turnstile/framework"
)

// GreeterConfig is all that the greeter takes from its environment.
type GreeterConfig struct {
	Greeting string        `env:"GREETING,required" doc:"what to say" example:"Good morning"`
	Patience time.Duration `env:"PATIENCE" envDefault:"1m" doc:"how long to wait for somebody"`
}

// greeter is the one part of the service.
type greeter struct{ config GreeterConfig }

// Run greets, and says goodbye when it is told to stop.
func (g greeter) Run(ctx context.Context) error {
	fmt.Println(g.config.Greeting)
	<-ctx.Done()
	fmt.Println("Goodbye")
	return nil
}

// A service is a function that adds parts. In a program it is called by Main, which takes arguments,
// environment and signals from the process:
//
//	func main() { framework.Main("greeter", build) }
//
// Here Run takes them from the example.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	build := func(s *framework.Service, c GreeterConfig) error {
		s.Add("greeter", greeter{config: c})
		return nil
	}
	err := framework.Run(ctx, "greeter", build, framework.Options{
		Environ: []string{"GREETING=Hello", "ADMIN_ADDR=127.0.0.1:0", "DRAIN_DELAY=0s"},
		Ready:   func(map[string]string) { stop() },
	})
	fmt.Println("error:", err)

	err = framework.Run(ctx, "greeter", build, framework.Options{
		Environ: []string{"PATIENCE=none"},
	})
	fmt.Println("error:", err)
	// Output:
	// Hello
	// Goodbye
	// error: <nil>
	// error: configuration is not usable:
	//   GREETING is required and not set, want a string such as Good morning: what to say
	//   PATIENCE is "none", want a duration such as 500ms, 30s or 5m
	// `greeter describe` lists all variables
}
