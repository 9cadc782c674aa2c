package prepareimage

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
)

//go:embed packages.nix
var packages string

// Packages is the expression that finds packages in a package set; its arguments are explained there.
func Packages() string { return packages }

// Hash identifies the expressions: 64 hexadecimal digits. What was evaluated with others may have other results.
func Hash() string {
	sum := sha256.Sum256([]byte(packages))
	return hex.EncodeToString(sum[:])
}
