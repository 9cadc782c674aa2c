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

// Packages is the expression that finds packages in a package set. It explains its arguments
// itself.
func Packages() string { return packages }

// Flake is the value of Packages' argument of that name.
func Flake() string { return flake }

// Hash identifies the expressions, by 64 hexadecimal digits. Results of expressions with another
// hash may differ.
func Hash() string {
	sum := sha256.Sum256([]byte(packages + flake))
	return hex.EncodeToString(sum[:])
}
