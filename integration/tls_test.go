package integration

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/docker/libtrust"
)

// An authority issues certificates.
type authority struct {
	key         libtrust.PrivateKey
	certificate *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key := newKey(t)
	certificate, err := libtrust.GenerateCACert(key, key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return authority{key, certificate}
}

func newKey(t *testing.T) libtrust.PrivateKey {
	t.Helper()
	key, err := libtrust.GenerateECP256PrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate for a key, to be used on loopback.
func (a authority) issue(t *testing.T, key libtrust.PublicKey, usage ...x509.ExtKeyUsage) *x509.Certificate {
	t.Helper()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: key.KeyID()},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(
		rand.Reader, template, a.certificate, key.CryptoPublicKey(), a.key.CryptoPrivateKey(),
	)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// writePair writes a new key and a certificate of it to NAME.key and NAME.cert.
func (a authority) writePair(t *testing.T, dir, name string, usage x509.ExtKeyUsage) {
	t.Helper()
	key := newKey(t)
	writeCertificate(t, filepath.Join(dir, name+".cert"), a.issue(t, key.PublicKey(), usage))
	block, err := key.PEMBlock()
	if err != nil {
		t.Fatal(err)
	}
	block.Headers = nil // libtrust's own, which others do not expect
	Write(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(block)))
}

func writeCertificate(t *testing.T, file string, certificate *x509.Certificate) {
	t.Helper()
	Write(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})))
}

var listeningTLS = regexp.MustCompile(`msg="listening on (127\.0\.0\.1:\d+), tls"`)

// TestTLS pulls over TLS, from a registry that asks nothing of its clients, and from one that knows
// them by their certificates.
func TestTLS(t *testing.T) {
	t.Parallel()
	Needs(t, "skopeo")
	server, clients := newAuthority(t), newAuthority(t)
	dir := Dir(t)
	server.writePair(t, dir, "server", x509.ExtKeyUsageServerAuth)
	clientCA := filepath.Join(dir, "clients.crt")
	writeCertificate(t, clientCA, clients.certificate)

	// What skopeo is given: the authority that it trusts, and one that its own certificate is of.
	known := func(trusted authority, own *authority) string {
		certs := Dir(t)
		writeCertificate(t, filepath.Join(certs, "ca.crt"), trusted.certificate)
		if own != nil {
			own.writePair(t, certs, "client", x509.ExtKeyUsageClientAuth)
		}
		return certs
	}
	stranger := newAuthority(t)
	pair := map[string]any{"certificate": filepath.Join(dir, "server.cert"), "key": filepath.Join(dir, "server.key")}
	withClients := map[string]any{"clientcas": []string{clientCA}}
	for key, value := range pair {
		withClients[key] = value
	}
	type refusal struct{ name, certs, text string }
	for _, test := range []struct {
		name    string
		tls     map[string]any
		good    string
		refused []refusal
	}{
		{
			"servers", pair, known(server, nil),
			[]refusal{{
				"of an authority that the client does not know", known(stranger, nil),
				"certificate signed by unknown authority|certificate is not trusted",
			}},
		},
		{"clients", withClients, known(server, &clients), []refusal{
			{"none", known(server, nil), "certificate required|bad certificate"},
			{
				"of another authority", known(server, &stranger),
				"unknown certificate authority|bad certificate|certificate required",
			},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := StartRegistry(t)
			reconfigure(t, r, "http.tls="+mustJSON(t, test.tls))
			startWith(t, r, listeningTLS, nil, "serve", r.ConfigFile())
			ref := "docker://" + r.Ref("hello")
			for _, refusal := range test.refused {
				t.Run(refusal.name, func(t *testing.T) {
					refused(
						t, r, regexp.MustCompile(refusal.text), "skopeo", "inspect", "--cert-dir",
						refusal.certs, ref,
					)
				})
			}
			Exec(t, "skopeo", "copy", "--src-cert-dir", test.good, ref, destination(t))
			r.AwaitLog(logBuilt, 1)
		})
	}
}
