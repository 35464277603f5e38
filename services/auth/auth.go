// Package auth is what other services know of the auth service: the events it
// publishes and the ids in them.
package auth

import "github.com/turnstile-go/turnstile/framework/event"

// Stream carries the events of every user; their key is the user's id.
const Stream = "users"

// Registered says that somebody has signed up.
type Registered struct {
	ID    string `json:"id"`
	Email string `json:"email"` // as it was typed
}

// Meta implements event.Event.
func (e Registered) Meta() event.Meta {
	return event.Meta{Stream: Stream, Type: "user.registered", Key: e.ID}
}
