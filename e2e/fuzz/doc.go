// Package fuzz sends the application's services what nobody should send: requests that are made from the OpenAPI documents
// that they serve, valid ones and such as are wrong in every way from a member's value down to the bytes on the wire.
//
// Whatever comes, no answer may be 5xx or tell what is inside, every error is a problem, every answer is one that the document
// lists, and nothing is done for who has no session. What became of the state is for package invariants to say afterwards.
//
// docs/testing.md tells how to run it.
package fuzz
