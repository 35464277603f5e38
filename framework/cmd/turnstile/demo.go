package main

import (
	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
)

func demoCommand(out *console.Console, stop *stopper) *cobra.Command {
	return &cobra.Command{Use: "demo"}
}
