package externalmetrics

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"sync"
	"time"
)

// aggregator is how to know the API server when it passes a request on.
type aggregator struct {
	roots *x509.CertPool
	names []string // of which its certificate has one; empty for any
}

// newAggregator reads what every cluster publishes about its own.
func newAggregator(published map[string]string) (*aggregator, error) {
	a := &aggregator{roots: x509.NewCertPool()}
	if !a.roots.AppendCertsFromPEM([]byte(published["requestheader-client-ca-file"])) {
		return nil, errors.New("it has no requestheader-client-ca-file: is the cluster's aggregation layer configured (--requestheader-client-ca-file of the API server)?")
	}
	if names := published["requestheader-allowed-names"]; names != "" {
		if err := json.Unmarshal([]byte(names), &a.names); err != nil {
			return nil, fmt.Errorf("its requestheader-allowed-names: %w", err)
		}
	}
	return a, nil
}

// door is the TLS side of a Server.
type door struct {
	certificate tls.Certificate

	mu         sync.Mutex
	aggregator *aggregator
}

func (d *door) expect(a *aggregator) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aggregator = a
}

// config lets in whoever has no certificate, which probes have not, and the
// aggregator.
func (d *door) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			a := d.aggregator
			return &tls.Config{
				MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
				Certificates: []tls.Certificate{d.certificate},
				ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: a.roots,
				VerifyConnection: func(state tls.ConnectionState) error {
					if len(state.PeerCertificates) == 0 || len(a.names) == 0 {
						return nil
					}
					if name := state.PeerCertificates[0].Subject.CommonName; !slices.Contains(a.names, name) {
						return fmt.Errorf("the client certificate is of %q, and not the aggregator's", name)
					}
					return nil
				},
			}, nil
		},
	}
}

// fromAggregator passes on what came with a certificate: only the aggregator
// gets in with one.
func fromAggregator(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			refuse(w, http.StatusUnauthorized, "only the API server is answered: ask that, as in kubectl get --raw "+r.URL.Path)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// selfSigned makes a certificate for as long as the process lives. It keeps
// listeners out, but proves nothing: to be believed it would have to be in the
// APIService, which then somebody has to rewrite whenever a certificate ends.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "external-metrics"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"external-metrics"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
