package share

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
)

// Options say which binary cache replicas share. The zero value is none.
type Options struct {
	// To is the cache's URL, in Nix's form: s3://BUCKET?…, file:///DIR, https://… or http://…
	To string
	// SecretKeyFile has the key that signs what is copied, as nix-store --generate-binary-cache-key
	// writes it.
	SecretKeyFile string
}

// Set tells whether there is a cache.
func (o Options) Set() bool { return o != Options{} }

// Check returns all faults, joined. Each begins with its key. It does not ask the cache.
func (o Options) Check() error {
	if !o.Set() {
		return nil
	}
	var faults []error
	if err := checkURL(o.To); err != nil {
		faults = append(faults, fmt.Errorf("to: %w", err))
	}
	if _, err := o.PublicKey(); err != nil {
		faults = append(faults, fmt.Errorf("secretkeyfile: %w", err))
	}
	return errors.Join(faults...)
}

func checkURL(to string) error {
	u, err := url.Parse(to)
	if err != nil || strings.ContainsAny(to, " \t\r\n") {
		return errors.New("it is not a URL") // not err, which shows passwords
	}
	switch {
	case to == "":
		return errors.New("missing: give the URL of a binary cache that this registry may write to")
	case u.Fragment != "":
		return fmt.Errorf("%q: a cache has no fragment", u.Redacted())
	case u.Query().Has("secret-key") || u.Query().Has("secret-keys"):
		return fmt.Errorf("%q: the key is that of secretkeyfile: leave it out here", u.Redacted())
	}
	switch u.Scheme {
	case "http", "https", "s3", "file":
		return binarycache.CheckURL(Options{To: to}.Cache())
	}
	return fmt.Errorf("%q is no binary cache: give one of s3://, file://, https:// and http://", u.Redacted())
}

// maxKeyBytes is more than a key has.
const maxKeyBytes = 4 << 10

// othersMay are the modes that let other users of the machine in.
const othersMay = 0o007

// PublicKey is the public half of the secret key, as NAME:BASE64. Its errors do not show the key.
func (o Options) PublicKey() (string, error) {
	if !filepath.IsAbs(o.SecretKeyFile) {
		return "", fmt.Errorf("%q is not the absolute path of a file with a key, which "+
			"nix-store --generate-binary-cache-key NAME SECRET PUBLIC makes", o.SecretKeyFile)
	}
	info, err := os.Stat(o.SecretKeyFile)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular() || info.Size() > maxKeyBytes:
		return "", fmt.Errorf("%s is not a file with a key", o.SecretKeyFile)
	case info.Mode().Perm()&othersMay != 0:
		return "", fmt.Errorf("%s may be read by other users (mode %#o): chmod 600 it, and make a new key if they did",
			o.SecretKeyFile, info.Mode().Perm())
	}
	text, err := os.ReadFile(o.SecretKeyFile)
	if err != nil {
		return "", err
	}
	secret, err := signature.LoadSecretKey(strings.TrimSpace(string(text)))
	if err != nil {
		return "", fmt.Errorf("%s is not a secret key, NAME:BASE64, as nix-store --generate-binary-cache-key makes it",
			o.SecretKeyFile)
	}
	public := secret.ToPublicKey()
	probe := "1;"
	signed, err := secret.Sign(nil, probe)
	if err != nil || !public.Verify(probe, signed) {
		return "", fmt.Errorf("%s is damaged: what it signs is not signed by its public half", o.SecretKeyFile)
	}
	return public.String(), nil
}

// Shown is To without a password and parameters, for the log. It is also what programs of Nix get,
// which read passwords from a netrc file.
func (o Options) Shown() string {
	u, err := url.Parse(o.To)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

// How tells what a Nix daemon has to know that does not trust the registry's user, in a line; none
// if there is no cache.
func (o Options) How() []string {
	key, err := o.PublicKey()
	if !o.Set() || err != nil {
		return nil
	}
	return []string{fmt.Sprintf("what is built is copied to %s, and signed by %s: "+
		"registries with nix.share believe that key, and other Nixes if their nix.conf has it in trusted-public-keys",
		o.Shown(), key)}
}

// bucketParameters are those by which a bucket is found.
var bucketParameters = []string{"region", "endpoint", "scheme", "profile"}

// Cache is To for package binarycache, without what is for Nix alone.
func (o Options) Cache() string {
	u, err := url.Parse(o.To)
	if err != nil || u.Scheme != "s3" {
		base, _, _ := strings.Cut(o.To, "?")
		return base
	}
	query := make(url.Values)
	for _, key := range bucketParameters {
		if value := u.Query().Get(key); value != "" {
			query.Set(key, value)
		}
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// bucket tells whether the cache is one that Nix gets at by a binarycache.Gateway.
func (o Options) bucket() bool { return strings.HasPrefix(o.To, "s3:") }

// at is base with the parameters of To that are not for finding a bucket. Given are those that To
// may leave out, and owned those that it does not have.
func (o Options) at(base string, given, owned map[string]string) string {
	_, text, _ := strings.Cut(o.To, "?")
	query, err := url.ParseQuery(text)
	if err != nil {
		query = make(url.Values)
	}
	if o.bucket() {
		for _, key := range bucketParameters {
			query.Del(key)
		}
	}
	for key, value := range given {
		query.Set(key, cmp.Or(query.Get(key), value))
	}
	for key, value := range owned {
		query.Set(key, value)
	}
	if len(query) == 0 {
		return base
	}
	return base + "?" + query.Encode()
}
