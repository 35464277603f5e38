// Package conformance is the contract of the ticketing application as cases, one for each rule: what its four services
// answer, whatever implements them and wherever it runs. It knows nothing but a URL.
//
// docs/testing.md tells how to run it.
package conformance
