package integration

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

const (
	bucket      = "images"
	accessToken = "let me in"
	account     = "registry@project.iam.gserviceaccount.com"
)

// A gcs is an emulator of Google Cloud Storage with one bucket. Programs reach it by Google's own
// names, through a proxy that their environment tells of.
type gcs struct {
	*traffic
	// Env is for programs that shall take the emulator for Google.
	Env []string
	// KeyFile is a service account's key. UserFile is a user's credentials, which can't sign URLs.
	KeyFile, UserFile string

	server *fakestorage.Server
	google *httptest.Server // all names of Google's, over TLS
	proxy  *httptest.Server
	key    *rsa.PrivateKey
	client *http.Client
}

func newGCS(t *testing.T) *gcs {
	t.Helper()
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{
		NoListener: true, ExternalURL: "https://www.googleapis.com", PublicHost: "storage.googleapis.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := &gcs{server: server, key: key}
	g.traffic = &traffic{store: server.HTTPHandler(), classify: classifyGCS}

	certificate, roots := g.certificate(t)
	g.google = httptest.NewUnstartedServer(http.HandlerFunc(g.serve))
	g.google.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	g.google.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that are stopped
	g.google.StartTLS()
	t.Cleanup(g.google.Close)
	g.proxy = httptest.NewServer(http.HandlerFunc(g.connect))
	t.Cleanup(g.proxy.Close)

	proxy, err := url.Parse(g.proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	g.client = &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}},
	}
	t.Cleanup(g.client.CloseIdleConnections)
	g.writeFiles(t, certificate)
	return g
}

// certificate is for Google's names, and vouches for itself.
func (g *gcs) certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"*.googleapis.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &g.key.PublicKey, g.key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: g.key}, roots
}

func (g *gcs) writeFiles(t *testing.T, certificate tls.Certificate) {
	t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(g.key)
	if err != nil {
		t.Fatal(err)
	}
	dir := Dir(t)
	authority := filepath.Join(dir, "ca.pem")
	Write(t, authority, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})))
	g.KeyFile, g.UserFile = filepath.Join(dir, "account.json"), filepath.Join(dir, "user.json")
	for name, credentials := range map[string]map[string]string{
		g.KeyFile: {
			"type": "service_account", "project_id": "project", "client_email": account, "private_key_id": "1",
			"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
			"token_uri":   g.proxy.URL + "/token",
		},
		g.UserFile: {"type": "authorized_user", "client_id": "id", "client_secret": "secret", "refresh_token": "token"},
	} {
		content, err := json.Marshal(credentials)
		if err != nil {
			t.Fatal(err)
		}
		Write(t, name, string(content))
	}
	g.Env = []string{"HTTPS_PROXY=" + g.proxy.URL, "SSL_CERT_FILE=" + authority, "NO_PROXY=", "no_proxy="}
}

// connect leads to the emulator whatever host is asked for.
func (g *gcs) connect(w http.ResponseWriter, request *http.Request) {
	if request.URL.Path == "/token" {
		g.token(w)
		return
	}
	if host, _, err := net.SplitHostPort(request.Host); request.Method != http.MethodConnect || err != nil ||
		!strings.HasSuffix(host, ".googleapis.com") {
		http.Error(w, "only to Google", http.StatusForbidden)
		return
	}
	to, err := net.Dial("tcp", g.google.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer to.Close()
	from, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer from.Close()
	fmt.Fprint(from, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(to, buffered)
		to.Close()
	}()
	_, _ = io.Copy(from, to)
}

func (g *gcs) token(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token": %q, "token_type": "Bearer", "expires_in": 3600}`, accessToken)
}

// serve is what Google's names lead to: nothing is had without a token or a signature.
func (g *gcs) serve(w http.ResponseWriter, request *http.Request) {
	switch {
	case request.Host == "oauth2.googleapis.com":
		g.token(w)
	case request.Header.Get("Authorization") == "Bearer "+accessToken || g.signed(request):
		g.ServeHTTP(w, request)
	default:
		http.Error(w, "who are you?", http.StatusUnauthorized)
	}
}

// signed tells whether the account has signed the URL, by
// https://cloud.google.com/storage/docs/access-control/signed-urls-v2.
func (g *gcs) signed(request *http.Request) bool {
	query := request.URL.Query()
	signature, err := base64.StdEncoding.DecodeString(query.Get("Signature"))
	if err != nil || query.Get("GoogleAccessId") != account {
		return false
	}
	sum := sha256.Sum256([]byte(request.Method + "\n\n\n" + query.Get("Expires") + "\n" + request.URL.EscapedPath()))
	return rsa.VerifyPKCS1v15(&g.key.PublicKey, crypto.SHA256, sum[:], signature) == nil
}

// classifyGCS tells what a request of Google's JSON API, or a read in its XML API, is for.
func classifyGCS(request *http.Request) (kind, object string) {
	path, query := request.URL.Path, request.URL.Query()
	if strings.HasPrefix(path, "/upload/") {
		switch {
		case request.Method == http.MethodPut:
			return "chunk", query.Get("name")
		case query.Get("uploadType") == "resumable":
			return "begin", query.Get("name")
		}
		return "write", query.Get("name")
	}
	rest, ok := strings.CutPrefix(path, "/storage/v1/b/"+bucket+"/o")
	object = strings.TrimPrefix(rest, "/")
	switch {
	case !ok:
		return "read", strings.TrimPrefix(path, "/"+bucket+"/")
	case request.Method == http.MethodDelete:
		return "delete", object
	case request.Method == http.MethodPost:
		return "copy", object
	case object == "":
		return "list", query.Get("prefix")
	}
	return "stat", object
}

// Start configures and starts a registry on the bucket, with the key in a file unless a setting
// says otherwise.
func (g *gcs) Start(t *testing.T, settings ...string) *Registry {
	t.Helper()
	r := g.New(t, append([]string{"storage.gcs.keyfile=" + g.KeyFile}, settings...)...)
	r.Start()
	return r
}

// New configures a registry on the bucket.
func (g *gcs) New(t *testing.T, settings ...string) *Registry {
	t.Helper()
	r := NewRegistry(t, append([]string{storageOn(t, "gcs", map[string]any{"bucket": bucket})}, settings...)...)
	r.Env = g.Env
	return r
}

// Objects are the names of those in the bucket that begin with a prefix.
func (g *gcs) Objects(t *testing.T, prefix string) (names []string) {
	t.Helper()
	objects, _, err := g.server.ListObjectsWithOptions(bucket, fakestorage.ListOptions{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		names = append(names, object.Name)
	}
	return names
}
