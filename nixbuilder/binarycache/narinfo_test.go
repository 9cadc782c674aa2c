package binarycache

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// curl is the narinfo of a path of cache.nixos.org.
const (
	curlPath = store.Path("/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin")
	curlKey  = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	curl     = `StorePath: /nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin
URL: nar/05ra3y72i3qjri7xskf9qj8kb29r6naqy1sqpbs3azi3xcigmj56.nar.xz
Compression: xz
FileHash: sha256:05ra3y72i3qjri7xskf9qj8kb29r6naqy1sqpbs3azi3xcigmj56
FileSize: 68852
NarHash: sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0
NarSize: 196040
References: 0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0 6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115 j5jxw3iy7bbz4a57fh9g2xm2gxmyal8h-zlib-1.2.12 yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1n
Deriver: 5rwxzi7pal3qhpsyfc16gzkh939q1np6-curl-7.82.0.drv
Sig: cache.nixos.org-1:TsTTb3WGTZKphvYdBHXwo6weVILmTytUjLB+vcX89fOjjRicCHmKA4RCPMVLkj6TMJ4GMX3HPVWRdD1hkeKZBQ==
`
	// wrongSig is one by the same key that is for something else.
	wrongSig = "Sig: cache.nixos.org-1:519iiVLx/c4Rdt5DNt6Y2Jm6hcWE9+XY69ygiWSZCNGVcmOcyL64uVAJ3cV8vaTusIZdbTnYo9Y7vDNeTmmMBQ==\n"
)

func keys(t testing.TB, texts ...string) (keys []signature.PublicKey) {
	t.Helper()
	for _, text := range texts {
		key, err := signature.ParsePublicKey(text)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

func TestParseNarinfo(t *testing.T) {
	const otherKey = "cache.nixos.org-1:tLAEn+EeaBUJYqEpTd2yeerr7Ic6+0vWe+aXL/vYUpE="
	replace := func(old, with string) string {
		if !strings.Contains(curl, old) {
			t.Fatalf("%q is not there", old)
		}
		return strings.Replace(curl, old, with, 1)
	}
	line := func(key string) string {
		_, rest, _ := strings.Cut(curl, "\n"+key+":")
		value, _, _ := strings.Cut(rest, "\n")
		return key + ":" + value + "\n"
	}
	for _, test := range []struct {
		name, text string
		keys       []string
		want       string // empty: it is taken
	}{
		{"as it is", curl, []string{curlKey}, ""},
		{"several keys", curl, []string{otherKey, curlKey}, ""},
		{"several signatures", wrongSig + curl, []string{curlKey}, ""},
		{"a signature of another kind", "Sig: cache.example.org-2:AAAA\n" + curl, []string{curlKey}, ""},
		{"carriage returns", strings.ReplaceAll(curl, "\n", "\r\n"), []string{curlKey}, ""},
		{"keys to come", curl + "Colour: green: or blue\nnonsense\n", []string{curlKey}, ""},
		{"references in another order", replace("0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0 6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115",
			"6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115 0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0"),
			[]string{curlKey}, ""},
		{"no file hash", replace(line("FileHash"), ""), []string{curlKey}, ""},
		{
			"another kind of file hash",
			replace(line("FileHash"), "FileHash: md5:d41d8cd98f00b204e9800998ecf8427e\n"), []string{curlKey},
			"",
		},
		{"a query in the URL", replace(".nar.xz", ".nar.xz?hash=1"), []string{curlKey}, ""},

		{"no keys", curl, nil, "no trusted key"},
		{"another key of the name", curl, []string{otherKey}, "no trusted key"},
		{"not signed", replace(line("Sig"), ""), []string{curlKey}, "no trusted key"},
		{"another size", replace("196040", "196041"), []string{curlKey}, "no trusted key"},
		{
			"another hash",
			replace(
				"sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0",
				"sha256:05ra3y72i3qjri7xskf9qj8kb29r6naqy1sqpbs3azi3xcigmj56",
			),
			[]string{curlKey}, "no trusted key",
		},
		{
			"a reference less", replace(" yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1n", ""),
			[]string{curlKey}, "no trusted key",
		},
		{
			"another path",
			replace("syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl", "syd87l2rxw8cbsxmxl853h0r6pdwhwjr-wget"),
			[]string{curlKey}, `it is about "/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-wget`,
		},
		{"no hash", replace(line("NarHash"), ""), []string{curlKey}, "no SHA-256 hash"},
		{
			"a weak hash", replace(line("NarHash"), "NarHash: md5:d41d8cd98f00b204e9800998ecf8427e\n"),
			[]string{curlKey}, "no SHA-256 hash",
		},
		{"no size", replace(line("NarSize"), ""), []string{curlKey}, "sizes 0"},
		{"a huge size", replace("196040", "18446744073709551615"), []string{curlKey}, "sizes 18446744073709551615"},
		{
			"an odd reference", replace("0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0", "../../etc"),
			[]string{curlKey}, "reference",
		},
		{
			"an archive elsewhere", replace("URL: nar/", "URL: https://example.org/nar/"), []string{curlKey},
			"not the name of a file",
		},
		{
			"an archive on another host", replace("URL: nar/", "URL: //example.org/nar/"), []string{curlKey},
			"not the name of a file",
		},
		{"an archive outside", replace("URL: nar/", "URL: ../nar/"), []string{curlKey}, "not the name of a file"},
		{
			"an archive outside, written in another way", replace("URL: nar/", "URL: nar/%2e%2e/%2e%2e/"),
			[]string{curlKey}, "not the name of a file",
		},
		{"an absolute archive", replace("URL: nar/", "URL: /nar/"), []string{curlKey}, "not the name of a file"},
		{"no archive", replace(line("URL"), ""), []string{curlKey}, "not the name of a file"},
		{
			"an unknown compression", replace("Compression: xz", "Compression: br"), []string{curlKey},
			`the compression is "br"`,
		},
		{"nothing", "", []string{curlKey}, "it is about"},
	} {
		t.Run(test.name, func(t *testing.T) {
			said, err := parseNarinfo([]byte(test.text), curlPath, keys(t, test.keys...))
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want one with %q", err, test.want)
				}
				if untrusted := strings.Contains(test.want, "trusted"); errors.Is(err, errUntrusted) != untrusted {
					t.Errorf("error %v: is it that no trusted key signed it?", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if said.Path != curlPath || said.NarSize != 196040 || len(said.References) != 4 ||
				!slices.IsSorted(said.References) ||
				said.compression != "xz" {
				t.Errorf("it says %+v", said)
			}
		})
	}
}

// FuzzParseNarinfo checks that everything that is taken was signed.
func FuzzParseNarinfo(f *testing.F) {
	f.Add([]byte(curl))
	f.Add([]byte(wrongSig + curl))
	f.Add([]byte("StorePath: x\nNarHash: sha256:\nNarSize: -1\nSig: a:b\nReferences:  \n"))
	trusted := keys(f, curlKey)
	want, err := parseNarinfo([]byte(curl), curlPath, trusted)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		said, err := parseNarinfo(text, curlPath, trusted)
		if err != nil {
			return
		}
		if said.Path != want.Path || said.NarSize != want.NarSize || !slices.Equal(said.References, want.References) ||
			!slices.Equal(said.narHash, want.narHash) {
			t.Errorf("%q is taken as %+v", text, said)
		}
		if checkName(said.file) != nil || said.fileBytes < 0 {
			t.Errorf("%q is taken with the file %q of %d bytes", text, said.file, said.fileBytes)
		}
	})
}

func TestParseCacheInfo(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       int // -1: refused
	}{
		{"as on cache.nixos.org", "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n", 40},
		{"no priority", "StoreDir: /nix/store\n", 50},
		{"nothing", "", 50},
		{"another store", "StoreDir: /gnu/store\n", -1},
		{"no number", "Priority: high\n", -1},
		{"negative", "Priority: -1\n", -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, err := parseCacheInfo([]byte(test.text)); (err != nil) != (test.want < 0) ||
				err == nil && got != test.want {
				t.Errorf("got %d, %v, want %d", got, err, test.want)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		name, substituter string
		want              string // of the fault; empty: none
	}{
		{"https", "https://cache.example.org", ""},
		{"in a directory, on a port", "http://cache.example.org:8080/a/b/", ""},
		{"with a priority", "https://cache.example.org?priority=10", ""},
		{"file", "file://" + dir, ""},
		{"no URL", "https://cache.example.org:x\x00", "not a URL"},
		{"no host", "https:///cache", "no host"},
		{"a bucket", "s3://bucket?region=eu-west-1&endpoint=minio.example.org:9000&scheme=http&profile=p&priority=1", ""},
		{"no bucket", "s3:///", "the name of a bucket"},
		{"a path in a bucket", "s3://bucket/path", "the name of a bucket"},
		{"a secret of a bucket", "s3://key:secret@bucket", "credentials stand in the environment"},
		{"a bucket by another protocol", "s3://bucket?scheme=ftp", "neither http nor https"},
		{"another parameter of a bucket", "s3://bucket?trusted=1", "no parameter but priority"},
		{"another protocol", "ftp://cache.example.org", "they take http, https, s3 and file"},
		{"Nix's store", "daemon", "they take http, https, s3 and file"},
		{"a directory that is not there", "file://" + dir + "/none", "is not a directory"},
		{"a relative directory", "file://cache", "absolute path"},
		{"another parameter", "https://cache.example.org?trusted=1", "no parameter but priority"},
		{"an odd priority", "https://cache.example.org?priority=first", "not a whole number"},
		{"a secret", "ftp://user:secret@cache.example.org", "user:xxxxx@"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := Options{Substituters: []string{test.substituter}, TrustedPublicKeys: []string{curlKey}}
			_, err := New(o)
			if test.want == "" && err != nil ||
				test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	faults := errors.Join(
		Options{}.CheckSubstituters(), Options{TrustedPublicKeys: []string{"a:b"}}.CheckTrustedPublicKeys(),
		Options{}.CheckTrustedPublicKeys(),
	)
	for _, want := range []string{"none, and storeless builds take all", `"a:b" is not NAME:BASE64`,
		"none, and storeless builds take only"} {
		if !strings.Contains(faults.Error(), want) {
			t.Errorf("the faults are %v, want %q among them", faults, want)
		}
	}
}
