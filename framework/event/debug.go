package event

import (
	"net/http"

	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// Debug serves the service's ledger to operators on the admin port: what
// `turnstile events` shows and does.
func (c *Client) Debug() map[string]http.Handler {
	return map[string]http.Handler{"/debug/events/": admin.Handler(admin.New(c.relay.source, c.relay.db))}
}
