// Package web is a service's HTTP side: typed operations (Huma) on a router (Echo), with the rules that every API of the
// system shares applied in one place, so that a handler contains nothing but its own decision.
//
//	srv := web.NewServer("tickets", cfg.HTTP, s.Log, s.Tracer, s.Meter)
//	srv.Authenticate(verifier) // a *session.Verifier
//	huma.Register(srv.API(), huma.Operation{
//		OperationID: "create-ticket", Summary: "Offer a ticket",
//		Method: http.MethodPost, Path: "/api/tickets", DefaultStatus: http.StatusCreated,
//		Security: session.Required,
//	}, func(ctx context.Context, in *struct{ Body newTicket }) (*web.Created[Ticket], error) {
//		return web.Create(ctx, db, func(tx *database.Tx) (*web.Created[Ticket], error) { … })
//	})
//	s.Add("http", srv)
//
// # What a request goes through
//
// Tracing and metrics, panic recovery, its id and the request log; then whether its client makes too many (429,
// HTTP_RATE_LIMIT); then who is calling, and whether that account makes too many (HTTP_ACCOUNT_RATE_LIMIT); then the route
// (404, 405 and OPTIONS with Allow); then, for an operation with Security, whether the caller has a session (401); then the
// body: its type (415), size (413), syntax (400), form and content (422, every failure at once, in the order of the fields);
// then the handler. A GET whose answer has an ETag that the caller knows ends with 304.
//
// # Requests that are repeated
//
// A POST that answers 201 takes the header Idempotency-Key: its handler works inside [Create] or [Once], and the database has
// the table of [Migrations].
//
// # Errors
//
// Every error is an RFC 9457 problem with at least one entry in errors. A handler returns one made by [NotFound],
// [Conflict], [Invalid] and their like. Any other error is looked up in one table (see [Server.MapErrors]): a database
// that is away is 503 with Retry-After; what nobody foresaw is 500 with a trace id, complete in the log and silent
// towards the caller. So are Huma's own errors of 500 and above, whatever they were made with; of these, 503 stays 503.
//
// # Bodies
//
// A Body is a struct. Unknown members are ignored, member names are case-sensitive, times are written in UTC with
// milliseconds. A Body with a method Validate() []Field is asked before the handler runs; a member of the wrong type counts
// as absent there, so that the message is the one that the type's author wrote for it.
package web
