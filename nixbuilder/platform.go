package nixbuilder

import (
	"fmt"
	"slices"
	"strings"
)

// systems are the platforms of OCI by what Nix calls them.
var systems = map[string]string{
	"linux/386":     "i686-linux",
	"linux/amd64":   "x86_64-linux",
	"linux/arm/v6":  "armv6l-linux",
	"linux/arm/v7":  "armv7l-linux",
	"linux/arm64":   "aarch64-linux",
	"linux/ppc64le": "powerpc64le-linux",
	"linux/riscv64": "riscv64-linux",
}

// SystemOf tells what Nix calls a platform of OCI.
func SystemOf(platform string) (string, error) {
	system, ok := systems[platform]
	if !ok {
		known := make([]string, 0, len(systems))
		for p := range systems {
			known = append(known, p)
		}
		slices.Sort(known)
		return "", fmt.Errorf(
			"%q is not a platform that can be built for: use one of %s", platform, strings.Join(known, ", "),
		)
	}
	return system, nil
}
