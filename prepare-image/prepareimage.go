package prepareimage

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
)

//go:embed packages.nix
var packages string

//go:embed flake.nix
var flake string

// Packages is the expression that finds packages in a package set; its arguments are explained
// there.
func Packages() string { return packages }

// Flake is what Packages takes as its argument of that name.
func Flake() string { return flake }

// Hash identifies the expressions: 64 hexadecimal digits. What was evaluated with others may have
// other results.
func Hash() string {
	sum := sha256.Sum256([]byte(packages + flake))
	return hex.EncodeToString(sum[:])
}
