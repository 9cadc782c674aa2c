package layering

import (
	"slices"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Key names one output of a package over all of its versions: git, openssl-dev, python3.11-numpy.
type Key string

// KeyOf returns the name of a store path without hash and version. What follows the version names
// an output or a part and is kept: gcc-13.2.0-lib is gcc-lib. So are a number of two digits at most
// before the version, as in openjdk-17-jre-17.0.9, and a language's version to its second number:
// perl5.38.2-JSON-4.10 is perl5.38-JSON.
//
// Names are free text, so now and then two packages have the same key. Then they have the same
// head, which costs some sharing and nothing else.
func KeyOf(path store.Path) Key {
	words := strings.Split(path.Name(), "-")
	start := versionStart(words)
	name := slices.Clone(words[:start])
	for _, word := range words[start:] {
		if !isVersion(word) && !isQualifier(word) {
			name = append(name, word)
		}
	}
	name[0] = withoutPatch(name[0])
	return Key(strings.Join(name, "-"))
}

// versionStart returns the index of the first word that belongs to the version; the first word of a
// name never does. If no word must be a version, a small number is one: jdk-21.
func versionStart(words []string) int {
	start := slices.IndexFunc(words[1:], isFullVersion)
	if start < 0 {
		start = slices.IndexFunc(words[1:], isVersion)
	}
	if start < 0 {
		return len(words)
	}
	start++
	for start > 1 && isQualifier(words[start-1]) {
		start--
	}
	return start
}

const (
	digits     = "0123456789"
	letters    = "abcdefghijklmnopqrstuvwxyz"
	separators = "._+~" // of the parts of a version
)

// isVersion tells whether a word looks like a version: 2.44.0, 5.2p26, v1.8, 643, 52 and 9e do,
// 100dpi and 3to2 do not.
func isVersion(word string) bool {
	if strings.ContainsAny(word, separators) {
		return startsWithDigit(strings.TrimPrefix(word, "v"))
	}
	if !startsWithDigit(word) {
		return false
	}
	// Between the numbers, or after the only one, there is one letter at most.
	letter := strings.Trim(word, digits)
	return letter == "" || len(letter) == 1 && strings.Contains(letters, letter)
}

// isFullVersion tells whether a word is a version and cannot be a number in a name: it has parts,
// or three digits.
func isFullVersion(word string) bool {
	return isVersion(word) &&
		(strings.ContainsAny(word, separators) || len(word)-len(strings.TrimLeft(word, digits)) > 2)
}

// isQualifier tells whether a word goes with the numbers of a version: 2.0-rc1,
// unstable-2024-01-02.
func isQualifier(word string) bool {
	switch strings.TrimRight(word, digits) {
	case "alpha", "beta", "git", "post", "pre", "rc", "unstable":
		return true
	}
	return false
}

// withoutPatch cuts the third number and what follows from a language and its version: perl5.38.2.
func withoutPatch(word string) string {
	parts := strings.SplitN(word, ".", 3)
	if len(parts) < 3 || startsWithDigit(word) {
		return word
	}
	return parts[0] + "." + parts[1]
}

func startsWithDigit(word string) bool {
	return word != "" && strings.Contains(digits, word[:1])
}
