// Package service is a service that says who it is.
package service

import (
	"github.com/turnstile-go/turnstile/framework"

	"example.com/loop/page"
)

// Config is what the service takes from its environment.
type Config struct {
	Listen string `env:"HTTP_ADDR" envDefault:"127.0.0.1:0" doc:"address to listen on"`
}

// New builds the service.
func New(s *framework.Service, c Config) error {
	s.Add("http", &page.Server{Listen: c.Listen, Path: "/api/alpha", Text: "This is alpha"})
	return nil
}
