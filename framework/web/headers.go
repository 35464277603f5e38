package web

import "net/http"

// protect has browsers do nothing with an answer but hand it to the page that asked: they neither guess its type, show it
// in a frame, run anything in it, keep it, nor let pages of other origins embed it. HSTS (RFC 6797) is for answers over TLS.
func protect(h http.Header, tls bool) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	if tls {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}
