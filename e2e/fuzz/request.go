package fuzz

import (
	"fmt"
	"net/url"
	"strings"
)

// request is one as it goes over the wire.
type request struct {
	operation *operation
	method    string
	target    string // as in the request line
	version   string
	headers   []string // lines
	body      []byte

	caller  *user // whose valid session it brings
	unsure  bool  // who calls: there are other headers that say so
	twisted bool  // it may be no HTTP that reaches the service, or not for the operation
	halved  bool  // not all of it is sent
	ends    bool  // it asks for the end of the connection
	more    int   // requests that follow in the same bytes
}

// bytes is all that is sent.
func (r *request) bytes() []byte {
	var b strings.Builder
	b.WriteString(r.method + " " + r.target + " " + r.version + "\r\n")
	for _, line := range r.headers {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(r.body)
	return []byte(b.String())
}

// last is the end of the path, where ids are.
func (r *request) last() string {
	path, _, _ := strings.Cut(r.target, "?")
	return path[strings.LastIndexByte(path, '/')+1:]
}

func (r *request) header(name, value string) { r.headers = append(r.headers, name+": "+value) }

// place is where a request is wrong. Mostly that is one, so that nothing else is to blame before somebody gets there.
type place int

const (
	nowhere place = iota
	inTarget
	inSession
	inHeaders
	inBody
	onWire
	everywhere
)

var places = []place{nowhere, nowhere, nowhere, inTarget, inSession, inHeaders, inBody, inBody, inBody, onWire, onWire,
	everywhere}

// request makes one of an operation.
func (g *generator) request(o *operation) *request {
	r := &request{operation: o, method: o.method, version: "HTTP/1.1"}
	is := one(g, places)
	wrong := func(p place) bool { return is == p || is == everywhere && g.chance(2) }
	r.target = g.target(o, wrong(inTarget))
	r.twisted = strings.HasSuffix(o.path, "}") && r.last() == "mine" // which is no id
	r.header("Host", o.addr)
	r.header("X-Forwarded-For", fmt.Sprintf("198.51.%d.%d", g.IntN(256), g.IntN(256))) // so that no limit for one client is met
	g.identify(r, wrong(inSession))
	for _, p := range o.parameters {
		if p.In == "header" && g.chance(3) {
			r.header(p.Name, line(g.parameter(p, wrong(inHeaders))))
		}
	}
	if o.body != nil {
		r.body = g.content(o, wrong(inBody))
		media := "application/json"
		if wrong(inHeaders) && g.chance(4) {
			media = line(one(g, append([]string{"text/plain", "application/json; charset=latin1", "application/json;",
				"application/x-www-form-urlencoded",
				"multipart/form-data; boundary=x", "application/json, text/html", "*/*", "application/problem+json"}, texts...)))
		}
		r.header("Content-Type", media)
	}
	if wrong(inHeaders) {
		g.oddHeader(r)
	}
	if wrong(inTarget) && g.chance(4) {
		r.twisted = true
		r.method = one(g, []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND",
			"get", "X", strings.Repeat("M", 300)})
	}
	if wrong(onWire) {
		g.twist(r)
	} else if len(r.body) > 0 || o.body != nil {
		g.frame(r)
	}
	return r
}

// target is the path with its query.
func (g *generator) target(o *operation, wrong bool) string {
	path := o.path
	var query []string
	for _, p := range o.parameters {
		switch {
		case p.In == "path":
			of := strings.Split(strings.Trim(o.path, "/"), "/")
			value := g.id(strings.TrimSuffix(of[1], "s")) // the noun of its collection
			if wrong && g.chance(4) {
				value = g.hostile()
			}
			escaped := url.PathEscape(value)
			if escaped == "" || escaped == "." || escaped == ".." {
				escaped = "%20"
			}
			path = strings.ReplaceAll(path, "{"+p.Name+"}", escaped)
		case p.In == "query" && g.chance(2):
			value := g.parameter(p, wrong)
			query = append(query, url.QueryEscape(p.Name)+"="+url.QueryEscape(value))
			if wrong && g.chance(8) {
				query = append(query, url.QueryEscape(p.Name)+one(g, []string{"", "=", "[]=1", "=" + url.QueryEscape(g.hostile()), "&;=;",
					"=%zz", "=%"}))
			}
		}
	}
	if wrong && g.chance(12) {
		query = append(query, url.QueryEscape(g.hostile())+"="+url.QueryEscape(g.hostile()))
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	return path
}

// parameter is a value for one.
func (g *generator) parameter(p parameter, wrong bool) string {
	if wrong && g.chance(2) {
		if p.Name == "cursor" && g.chance(2) {
			return g.flip(g.recent(g.cursors))
		}
		return g.hostile()
	}
	for _, t := range p.Schema.types() {
		if t == "integer" || t == "number" {
			return one(g, []string{"1", "2", "3", "50", "200"})
		}
	}
	return g.text(p.Name, p.Schema)
}

// identify says who calls, or who somebody wants to be.
func (g *generator) identify(r *request, wrong bool) {
	u := one(g, g.users)
	token := u.token
	if token == "" {
		return
	}
	switch {
	case wrong:
		for token == u.token {
			token = g.forge(u.token)
		}
	case g.chance(12):
		return
	default:
		r.caller = u
	}
	if g.chance(3) {
		r.header("Authorization", "Bearer "+line(token))
	} else {
		r.header("Cookie", "session="+line(token))
	}
}

// forge makes something of a valid token that is none.
func (g *generator) forge(token string) string {
	parts := strings.Split(token, ".")
	switch g.IntN(6) {
	case 0:
		return line(g.hostile())
	case 1:
		return parts[0] + "." + parts[1] + "."
	case 2: // {"alg":"none"}
		return "eyJhbGciOiJub25lIn0." + parts[1] + "."
	case 3: // {"alg":"HS256","kid":"../x"}
		return "eyJhbGciOiJIUzI1NiIsImtpZCI6Ii4uL3gifQ." + parts[1] + "." + parts[2]
	case 4:
		return strings.Join(append(parts, parts...), ".")
	}
	changed := []byte(token)
	changed[g.IntN(max(1, len(token)-12))] ^= 3 // the last characters may say nothing
	return line(string(changed))
}

// oddHeader adds one that nobody asked for.
func (g *generator) oddHeader(r *request) {
	name := one(g, []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Accept-Charset", "If-Match", "If-None-Match", "If-Modified-Since",
		"If-Range", "Range", "Idempotency-Key",
		"X-Request-Id", "Traceparent", "Tracestate", "Baggage", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host",
		"X-Real-Ip", "Forwarded", "Origin", "Referer",
		"Sec-Fetch-Site", "Content-Encoding", "Content-Type", "X-Http-Method-Override", "Cookie", "Authorization", "User-Agent",
		"Prefer", "Via", "Te", "Link",
		"Access-Control-Request-Method", "Last-Event-Id", "X-Original-Url", "Connection", "Upgrade",
	})
	value := line(one(g, append([]string{
		"*/*", "text/html", "gzip", "br;q=0", "identity", "bytes=0-0", "bytes=-1", "*", `"0"`, `W/"1"`, `"`,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"cross-site", "none", "https://evil.example", "null", "for=127.0.0.1", "session=; session=x; session", "Basic YTpi",
		"Bearer", "Bearer  ", "h2c", "websocket",
		"a=" + strings.Repeat("b", 4000), one(g, g.keys), "text/*;q=0, application/json;q=2",
	}, texts...)))
	if name == "Cookie" || name == "Authorization" {
		r.unsure = true
	}
	r.header(name, value)
}

// line is a text that can be a header's value: without line breaks and NUL.
func line(s string) string {
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f {
			return -1
		}
		return c
	}, s)
}

// frame says how long the body is, in one of the two ways.
func (g *generator) frame(r *request) {
	if !g.chance(6) {
		r.header("Content-Length", fmt.Sprint(len(r.body)))
		return
	}
	r.header("Transfer-Encoding", "chunked")
	r.body = g.chunked(r.body)
}

func (g *generator) chunked(body []byte) []byte {
	var b strings.Builder
	for len(body) > 0 {
		n := min(len(body), 1+g.IntN(1+len(body)))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	b.WriteString("0\r\n\r\n")
	return []byte(b.String())
}

// twist makes something of a request that is no good HTTP any more, or hardly.
func (g *generator) twist(r *request) {
	r.twisted = true
	length := func(text string) { r.header("Content-Length", text) }
	exact := fmt.Sprint(len(r.body))
	kind := g.IntN(24)
	if kind != 0 {
		r.header("Connection", "close")
		r.ends = true
	}
	switch kind {
	case 0: // others follow before the answer
		g.frame(r)
		r.more = 1 + g.IntN(3)
	case 1:
		length(fmt.Sprint(len(r.body) + 1 + g.IntN(1000)))
		r.halved = true
	case 2:
		length(fmt.Sprint(len(r.body) / 2))
	case 3:
		length(one(g, []string{"", "-1", "abc", "+" + exact, "0x10", exact + ", " + exact, "99999999999999999999", "1e3", " ",
			exact + "\x00"}))
		r.halved = true
	case 4:
		length(exact)
		length(fmt.Sprint(len(r.body) + 1))
	case 5:
		length(exact)
		r.header("Transfer-Encoding", "chunked")
		r.body = g.chunked(r.body)
	case 6:
		r.header("Transfer-Encoding", one(g, []string{"gzip, chunked", "xchunked", "identity", "chunked, chunked", "Chunked ",
			"\vchunked", "chunked\x00"}))
		r.body = g.chunked(r.body)
	case 7:
		r.header("Transfer-Encoding", "chunked")
		r.body = []byte(one(g, []string{"z\r\n", "-1\r\n\r\n", "fffffffffffffffff\r\n", "5\r\nab", "0\r\nX-Trailer: x\r\n\r\n",
			"2;a=\"b\r\n{}\r\n0\r\n\r\n", "2\n{}\n0\n\n"}))
		r.halved = true
	case 8:
		r.version = one(g, []string{"HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.9", "HTTP/9", "http/1.1", "", "XTTP/1.1",
			"HTTP/1.1 "})
		length(exact)
	case 9:
		r.headers = append(r.headers, one(g, []string{"no colon", ": no name", "Space : x", " Folded: x", "X\x00Y: z",
			"X-Y: a\x00b", "X-Y: a\rb", "Ünï: x", "(): x", "X-Y\t: z"}))
		length(exact)
	case 10:
		r.header("X-Long", strings.Repeat("x", 100_000))
		length(exact)
	case 11:
		for i := range 1500 {
			r.header(fmt.Sprint("X-", i), "x")
		}
		length(exact)
	case 12:
		r.headers = r.headers[1:] // no Host
		length(exact)
	case 13:
		r.header("Host", "another.example")
		length(exact)
	case 14:
		r.headers[0] = "Host: " + one(g, []string{"", "a b", "[::1", "evil.example\x00", "..", strings.Repeat("h", 3000),
			"user@host", "127.0.0.1:99999"})
		length(exact)
	case 15:
		r.header("Expect", one(g, []string{"100-continue", "200-ok", ""}))
		length(exact)
	case 16:
		r.header("Upgrade", one(g, []string{"h2c", "websocket", "TLS/1.0"}))
		r.header("HTTP2-Settings", "AAMAAABkAAQAAP__")
		length(exact)
	case 17: // another protocol
		r.method, r.target, r.version = one(g, []string{"PRI", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "HELO",
			"\x00\x00\x00", "*1\r\n$4\r\nPING"}), "*", "HTTP/2.0"
		r.halved = true
	case 18:
		r.target = one(g, []string{"*", "", "api/tickets", "http://" + r.operation.addr + r.target,
			"http://evil.example" + r.target, "//" + r.operation.addr + r.target,
			"/%zz", "/%", "/\xff", "/ /", "/api/tickets#x", "?", "/..", "/api/../api/tickets", "/./api//tickets",
			"/api/tickets/..%2f..%2fx", "/api%2ftickets", "/api/tickets;x=1",
			"/API/Tickets", "/api/tickets/%00", "/api/tickets/%ff%fe", "/api/tickets/" + strings.Repeat("a",
				9000), "/" + strings.Repeat("a/", 3000), "/api/tickets/mine/", "/api/tickets//",
			"/api/tickets/%2e%2e/orders", "/metrics", "/healthz", "/readyz", "/debug/pprof/", "/.env", "/api", "/", "javascript:x", "127.0.0.1:1"})
		length(exact)
	case 19:
		length(exact)
		r.body = append(r.body, []byte("GET /api/nothing HTTP/1.1\r\nX: ")...) // smuggled, if the length does not count
	case 20:
		r.headers = append(r.headers, "X-Injected: a\nX-Injected: b", "X-Y: z\r")
		length(exact)
	case 21:
		r.header("Cookie", strings.Repeat("a=b; ", 5000)+"session=x")
		length(exact)
	case 22:
		length(exact)
		r.header("Content-Encoding", one(g, []string{"gzip", "deflate", "br", "x"}))
	default: // a body where none belongs, or none where one does
		if len(r.body) == 0 {
			r.body = []byte("{}")
			length("2")
		} else {
			r.body = nil
		}
	}
}
