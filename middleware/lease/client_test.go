package lease

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// An authority signs the certificates of a test, in files of a directory.
type authority struct {
	dir         string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.certificate, a.key = a.sign(t, "ca", &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// sign makes a certificate and its key, in NAME.crt and NAME.key.
func (a *authority) sign(t *testing.T, name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, parentKey := a.certificate, a.key
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	a.write(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func (a *authority) write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(a.file(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// freePort returns a port of the loopback address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

// Redis over TLS, with a certificate of the client's, a user and a password, and each of them
// missing or wrong.
func TestTLSAndPassword(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.sign(t, "server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	a.sign(t, "client", &x509.Certificate{})
	other := newAuthority(t)
	port := freePort(t)
	s := needs.StartRedis(
		t, "--tls-port", port, "--tls-cert-file", a.file("server.crt"), "--tls-key-file", a.file("server.key"),
		"--tls-ca-cert-file", a.file("ca.crt"), "--tls-auth-clients", "yes", "--bind", "127.0.0.1",
	)
	s.Tell(t, "acl", "setuser", "registry", "on", ">password", "~"+prefix+"*", "&"+prefix+"*",
		"+set", "+getrange", "+get", "+del", "+pexpire", "+eval", "+evalsha", "+publish", "+subscribe", "+hello",
		"+client")
	s.Tell(t, "acl", "setuser", "default", "resetpass", ">other")
	for _, test := range []struct {
		name   string
		change func(*configuration.Redis)
		away   bool
	}{
		{"all of it", func(*configuration.Redis) {}, false},
		{"no certificate", func(c *configuration.Redis) { c.TLS.Certificate, c.TLS.Key = "", "" }, true},
		{"another authority", func(c *configuration.Redis) { c.TLS.RootCAs = []string{other.file("ca.crt")} }, true},
		{"no TLS", func(c *configuration.Redis) { c.TLS = configuration.RedisTLSOptions{} }, true},
		{"no password", func(c *configuration.Redis) { c.Options.Username, c.Options.Password = "", "" }, true},
		{"another password", func(c *configuration.Redis) { c.Options.Password = "another" }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := config("127.0.0.1:" + port)
			c.Redis.Options.Username, c.Redis.Options.Password = "registry", "password"
			c.Redis.TLS = configuration.RedisTLSOptions{
				Certificate: a.file("client.crt"), Key: a.file("client.key"), RootCAs: []string{a.file("ca.crt")},
			}
			test.change(&c.Redis)
			l := newLeases(t, c)
			j := new(job)
			if err := j.on(t.Context(), l, "k"); err != nil || j.times.Load() != 1 {
				t.Errorf("error %v, done %d times", err, j.times.Load())
			}
			l.releasing.Wait()
			if l.health.away != test.away {
				t.Errorf("away is %t, want %t", l.health.away, test.away)
			}
		})
	}
}

// What can't be used of the section is a fault at the start, which begins with the key.
func TestFaults(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.write(t, "empty", nil)
	for _, test := range []struct {
		name string
		tls  configuration.RedisTLSOptions
		want []string
	}{
		{"none", configuration.RedisTLSOptions{}, nil},
		{"good", configuration.RedisTLSOptions{
			Certificate: a.file("ca.crt"), Key: a.file("ca.key"), RootCAs: []string{a.file("ca.crt")},
		}, nil},
		{"no key", configuration.RedisTLSOptions{Certificate: a.file("ca.crt")}, []string{"redis.tls.key: "}},
		{"no certificate", configuration.RedisTLSOptions{Key: a.file("ca.key")}, []string{"redis.tls.certificate: "}},
		{
			"files that are none",
			configuration.RedisTLSOptions{
				Certificate: a.file("none"), Key: a.file("none"), RootCAs: []string{a.file("empty"), a.file("none")},
			},
			[]string{"redis.tls.certificate, redis.tls.key: ", "redis.tls.rootcas[0]: ", "redis.tls.rootcas[1]: "},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := config("127.0.0.1:1")
			c.Redis.TLS = test.tls
			_, err := New(c, time.Hour)
			var lines []string
			if err != nil {
				lines = strings.Split(err.Error(), "\n")
			}
			if len(lines) != len(test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
			for i, line := range lines {
				if !strings.HasPrefix(line, test.want[i]) {
					t.Errorf("line %q, want %q", line, test.want[i])
				}
			}
		})
	}
}

// Who has no replicas, or none that could be told from those of others, has no leases.
func TestNoReplicas(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*configuration.Configuration){
		"no redis":  func(c *configuration.Configuration) { c.Redis.Options.Addrs = nil },
		"no secret": func(c *configuration.Configuration) { c.HTTP.Secret = "" },
		"in memory": func(c *configuration.Configuration) { c.Storage = configuration.Storage{"inmemory": nil} },
	} {
		c := config("127.0.0.1:1")
		change(c)
		if l, err := New(c, time.Hour); l != nil || err != nil {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
}

// Registries that share a Redis have other names there, unless they share secret and storage.
func TestNames(t *testing.T) {
	t.Parallel()
	names := make(map[string]string)
	for name, change := range map[string]func(*configuration.Configuration){
		"one":           func(*configuration.Configuration) {},
		"other secret":  func(c *configuration.Configuration) { c.HTTP.Secret = "other" },
		"other storage": func(c *configuration.Configuration) { c.Storage["filesystem"]["rootdirectory"] = "/srv/other" },
		"other kind":    func(c *configuration.Configuration) { c.Storage = configuration.Storage{"s3": {"bucket": "b"}} },
		"other bucket":  func(c *configuration.Configuration) { c.Storage = configuration.Storage{"s3": {"bucket": "c"}} },
	} {
		c := config("127.0.0.1:1")
		change(c)
		s, err := newSeal(c)
		if err != nil {
			t.Fatal(err)
		}
		key := s.name("lease", "k")
		if other, ok := names[key]; ok {
			t.Errorf("%s and %s have the same name", name, other)
		}
		names[key] = name
		again, err := newSeal(c)
		if err != nil || again.name("lease", "k") != key {
			t.Errorf("%s: another replica has another name, %v", name, err)
		}
	}
}
