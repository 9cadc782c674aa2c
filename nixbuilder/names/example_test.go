package names_test

import (
	"fmt"

	"github.com/nixery-registry/nixery-registry/nixbuilder/names"
)

func ExampleParse() {
	for _, name := range []string{"arm64/shell/htop/git/htop", "htop/shell", "arm64"} {
		request, err := names.Parse(name, "", 32)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(request, request.Packages, request.Shell, request.Arch)
	}
	// Output:
	// arm64/shell/git/htop [git htop] true arm64
	// "shell" has a meaning of its own and stands before the packages: ask for shell/htop
	// "arm64" chooses a platform but no package: add package names after it
}

// Names that are not under the prefix are those of pushed images.
func ExampleParse_prefix() {
	for _, name := range []string{"nix/git/htop", "team/app"} {
		request, err := names.Parse(name, "nix", 32)
		fmt.Printf("%q %v\n", request, err)
	}
	// Output:
	// "git/htop" <nil>
	// "" name is not under the prefix of images made of packages
}

func ExamplePolicy() {
	policy := names.Policy{Allow: []string{"*", "python3Packages.*"}, Deny: []string{"*insecure*"}}
	for _, id := range []string{"git", "python3Packages.numpy", "perlPackages.JSON", "nodejs-insecure"} {
		fmt.Println(id, policy.Denies(id))
	}
	// Output:
	// git false
	// python3Packages.numpy false
	// perlPackages.JSON true
	// nodejs-insecure true
}
