package web

import (
	"maps"
	"net/http"
)

// protection has browsers do nothing with an answer but hand it to the page that asked: they neither guess its type, show
// it in a frame, run anything in it, keep it, nor let pages of other origins embed it.
var protection = http.Header{
	"Cache-Control":                {"no-store"},
	"Content-Security-Policy":      {"default-src 'none'; frame-ancestors 'none'"},
	"Cross-Origin-Resource-Policy": {"same-origin"},
	"Referrer-Policy":              {"no-referrer"},
	"X-Content-Type-Options":       {"nosniff"},
	"X-Frame-Options":              {"DENY"},
}

// protect adds protection to an answer's header, and HSTS (RFC 6797) if it goes over TLS.
func protect(h http.Header, tls bool) {
	maps.Copy(h, protection) // with the values, to which nothing is added in place: there is no room
	if tls {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}
