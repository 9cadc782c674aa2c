package layering

import (
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

func TestKeyOf(t *testing.T) {
	const hash = "/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-"
	for _, test := range []struct {
		name, in string
		want     Key
	}{
		{"plain", "git-2.44.0", "git"},
		{"output", "openssl-3.0.13-dev", "openssl-dev"},
		{"output of a compiler", "gcc-13.2.0-lib", "gcc-lib"},
		{"part", "linux-6.6.30-modules", "linux-modules"},
		{"two parts", "glibc-2.39-52-bin", "glibc-bin"},
		{"version of two words", "glibc-2.39-52", "glibc"},
		{"letters in the version", "bash-interactive-5.2p26", "bash-interactive"},
		{"letter after the version", "libjpeg-9e", "libjpeg"},
		{"year and letter", "tzdata-2024a", "tzdata"},
		{"openssl's old letters", "openssl-1.1.1w", "openssl"},
		{"one number", "less-643", "less"},
		{"one short number", "jdk-21", "jdk"},
		{"date", "iana-etc-20240318", "iana-etc"},
		{"date in words", "hello-2024-01-02", "hello"},
		{"unstable", "hello-unstable-2024-01-02", "hello"},
		{"version and unstable", "hello-1.2-unstable-2024-01-02", "hello"},
		{"release candidate", "linux-6.9-rc1", "linux"},
		{"pre-release with its output", "nix-2.24.0pre20240101_abcdef12-man", "nix-man"},
		{"v before the version", "dump-init-v1.8", "dump-init"},
		{"date and package revision", "libedit-20230828-3.1", "libedit"},
		{"plus in the name", "gtk+3-3.24.41", "gtk+3"},
		{"plus in the version", "openjdk-21+35-jre", "openjdk-jre"},
		{"two versions", "nvidia-x11-550.78-6.6.30", "nvidia-x11"},
		{"digit first", "7zz-23.01", "7zz"},
		{"number with a unit", "font-adobe-100dpi-1.0.4", "font-adobe-100dpi"},
		{"number inside a word", "python3.11-3to2-1.1.1", "python3.11-3to2"},
		{"version in the name", "openjdk-17-jre-17.0.9", "openjdk-17-jre"},
		{"version in the name, last", "font-awesome-4-4.7.0", "font-awesome-4"},
		{"hyphenated name", "font-util-1.4.1", "font-util"},
		{"language", "python3.11-numpy-1.26.4", "python3.11-numpy"},
		{"language with its patch level", "perl5.38.2-JSON-4.10", "perl5.38-JSON"},
		{"language with its patch level, updated", "perl5.38.3-JSON-4.11", "perl5.38-JSON"},
		{"environment", "python3-3.11.9-env", "python3-env"},
		{"no version", "unit-script-x", "unit-script-x"},
		{"one word", "source", "source"},
		{"only a version", "2.44.0", "2.44.0"},
		{"dashes only", "--", "--"},
		{"Debian package", "libc6-2.36-9+deb12u10", "libc6"},
		{"Debian library with a soname", "libglib2.0-0-2.74.6-2+deb12u2", "libglib2.0-0"},
		{"Debian library of one generation", "libgtk-3-0-3.24.38-2", "libgtk-3-0"},
		{"Debian revision", "git-man-2.39.5-0+deb12u2", "git-man"},
		{"Debian kernel", "linux-image-6.1.0-37-amd64-6.1.140-1", "linux-image-amd64"},
		{"Debian version without upstream's dots", "less-590-2", "less"},
		{"Debian tilde replaced", "htop-3.2.2-2_bpo12", "htop"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := KeyOf(store.Path(hash + test.in)); got != test.want {
				t.Errorf("KeyOf(%q) = %q, want %q", test.in, got, test.want)
			}
		})
	}
}
