package configcheck

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/distribution/distribution/v3/configuration"
)

// tls is about certificates, which the registry reads when it listens.
func (f *faults) tls(c configuration.TLS) {
	encrypt := c.LetsEncrypt
	switch {
	case c.Certificate != "" && encrypt.CacheFile != "":
		f.add("http.tls: has both a certificate and letsencrypt: leave one out")
	case encrypt.CacheFile == "" && (encrypt.Email != "" || len(encrypt.Hosts) > 0):
		f.add("http.tls.letsencrypt.cachefile: missing: without it, the registry does not use TLS")
	case c.Certificate == "" && encrypt.CacheFile == "" && (c.Key != "" || len(c.ClientCAs) > 0 || c.ClientAuth != ""):
		f.add("http.tls.certificate: missing: without it, the registry does not use TLS")
	case c.Certificate != "":
		f.keyPair("http.tls", c.Certificate, c.Key)
	}
	f.authorities("http.tls.clientcas", c.ClientCAs)
	if len(c.ClientCAs) == 0 && c.ClientAuth != "" {
		f.add("http.tls.clientauth: says how clients prove who they are to http.tls.clientcas, which is missing")
	}
	if c.MinimumTLS != "" && c.MinimumTLS != "tls1.2" && c.MinimumTLS != "tls1.3" {
		f.add("http.tls.minimumtls: %q is neither tls1.2 nor tls1.3", c.MinimumTLS)
	}
	var known []string
	for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		known = append(known, suite.Name)
	}
	for _, name := range c.CipherSuites {
		if !slices.Contains(known, name) {
			f.add("http.tls.ciphersuites: there is none of the name %s%s", name, suggestion(name, known))
		}
	}
}

// keyPair is about a certificate and its key, which both may be missing.
func (f *faults) keyPair(key, certificate, private string) {
	switch {
	case certificate == "" && private == "":
	case certificate == "":
		f.add("%s.certificate: missing, beside a key", key)
	case private == "":
		f.add("%s.key: missing, beside a certificate", key)
	default:
		if _, err := tls.LoadX509KeyPair(certificate, private); err != nil {
			f.add("%s: %w", key, err)
		}
	}
}

// authorities is about files of certificates.
func (f *faults) authorities(key string, files []string) {
	for i, name := range files {
		at := fmt.Sprintf("%s[%d]", key, i)
		content, ok := f.file(at, name)
		if ok && !x509.NewCertPool().AppendCertsFromPEM(content) {
			f.add("%s: %s has no certificate in PEM", at, name)
		}
	}
}
