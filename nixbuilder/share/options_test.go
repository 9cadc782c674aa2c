package share

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// writeKey writes a secret key to a new file, and returns the file and the public half.
func writeKey(t *testing.T) (file, public string) {
	t.Helper()
	secret, key, err := signature.GenerateKeypair("share.example.org-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, key.String()
}

func TestCheck(t *testing.T) {
	good, _ := writeKey(t)
	for _, test := range []struct {
		name, to string
		key      func(t *testing.T, file string) string // nil: it is good
		want     string                                 // what a fault begins with; empty: there is none
	}{
		{name: "a bucket", to: "s3://bucket?region=eu-west-1&endpoint=minio.example.org&scheme=http&profile=p"},
		{name: "a directory", to: "file:///srv/share?compression=xz"},
		{name: "a server", to: "https://user:password@cache.example.org/nix"},
		{name: "nothing", want: "to: missing: give the URL"},
		{name: "no URL", to: "s3://a b", want: "to: it is not a URL"},
		{name: "two URLs", to: "https://a https://b", want: "to: it is not a URL"},
		{name: "an option", to: "--from", want: `to: "--from" is no binary cache`},
		{name: "a Nix store", to: "ssh://host", want: `to: "ssh://host" is no binary cache`},
		{name: "a relative directory", to: "file://srv/share", want: `to: "file://srv/share" is not file://`},
		{name: "no host", to: "https:///nix", want: `to: "https:///nix" has no host`},
		{name: "no bucket", to: "s3://?region=x", want: `to: "s3:?region=x" is not s3:// and the name of a bucket`},
		{name: "a key of its own", to: "https://a?secret-key=/k", want: "to: \"https://a?secret-key=/k\": the key is that of secretkeyfile"},
		{name: "keys of its own", to: "https://a?secret-keys=/k", want: "to: \"https://a?secret-keys=/k\": the key is that of secretkeyfile"},
		{
			name: "no key", to: "https://a",
			key:  func(*testing.T, string) string { return "" },
			want: `secretkeyfile: "" is not the absolute path`,
		},
		{
			name: "a key that is not there", to: "https://a",
			key:  func(_ *testing.T, file string) string { return file + "-none" },
			want: "secretkeyfile: stat ",
		},
		{
			name: "a directory for a key", to: "https://a",
			key:  func(_ *testing.T, file string) string { return filepath.Dir(file) },
			want: "secretkeyfile: ",
		},
		{name: "a key that others may read", to: "https://a", key: func(t *testing.T, file string) string {
			if err := os.Chmod(file, 0o644); err != nil {
				t.Fatal(err)
			}
			return file
		}, want: "secretkeyfile: "},
		{name: "a public key", to: "https://a", key: func(t *testing.T, file string) string {
			return rewrite(t, file, func(string) string { return "a:HKOtEQdqKZN6JB/dkAk8QEkT1erTNGPGprFdBHDupok=" })
		}, want: "secretkeyfile: "},
		{name: "a damaged key", to: "https://a", key: func(t *testing.T, file string) string {
			return rewrite(t, file, func(text string) string {
				name, key, _ := strings.Cut(text, ":")
				return name + ":" + "AAAA" + key[4:]
			})
		}, want: "secretkeyfile: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := good
			if test.key != nil {
				file, _ = writeKey(t)
				file = test.key(t, file)
			}
			err := Options{To: test.to, SecretKeyFile: file}.Check()
			if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("the fault is %v, want %q", err, test.want)
			}
			if text, readErr := os.ReadFile(file); readErr == nil && err != nil {
				_, key, _ := strings.Cut(string(text), ":")
				if strings.Contains(err.Error(), key[:20]) {
					t.Errorf("the fault shows the key: %v", err)
				}
			}
		})
	}
	if err := (Options{}).Check(); err != nil {
		t.Errorf("without a share, there is the fault %v", err)
	}
}

func rewrite(t *testing.T, file string, change func(string) string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(change(string(text))), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPublicKey(t *testing.T) {
	file, want := writeKey(t)
	if got, err := (Options{SecretKeyFile: file}).PublicKey(); err != nil || got != want {
		t.Errorf("the public key is %q, %v, want %q", got, err, want)
	}
}

// TestURLs has the forms in which Nix and package binarycache get the URL.
func TestURLs(t *testing.T) {
	for _, test := range []struct{ to, substituter, cache, shown string }{
		{"file:///srv/share", "file:///srv/share?priority=0", "file:///srv/share", "file:///srv/share"},
		{
			"https://u:p@cache.example.org/nix?compression=xz&priority=20",
			"https://cache.example.org/nix?compression=xz&priority=20", "https://u:p@cache.example.org/nix",
			"https://cache.example.org/nix",
		},
	} {
		s := &Share{options: Options{To: test.to}}
		if got := s.Substituter(); got != test.substituter {
			t.Errorf("Nix gets %q, want %q", got, test.substituter)
		}
		if got := s.options.Cache(); got != test.cache {
			t.Errorf("package binarycache gets %q, want %q", got, test.cache)
		}
		if got := s.options.Shown(); got != test.shown {
			t.Errorf("the log has %q, want %q", got, test.shown)
		}
	}
	bucket := Options{To: "s3://b?region=r&endpoint=e:1&scheme=http&profile=p&compression=xz&priority=3"}
	if got, want := bucket.Cache(), "s3://b?endpoint=e%3A1&profile=p&region=r&scheme=http"; got != want {
		t.Errorf("package binarycache gets %q, want %q", got, want)
	}
	owned := map[string]string{"secret-key": "/k"}
	if got, want := bucket.at("http://x", nil, owned), "http://x?compression=xz&priority=3&secret-key=%2Fk"; got != want {
		t.Errorf("Nix copies to %q, want %q", got, want)
	}
}
