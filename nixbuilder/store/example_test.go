package store_test

import (
	"fmt"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

func ExampleParsePath() {
	path, err := store.ParsePath("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-htop-3.2.2")
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(path.Name())
	fmt.Println(path.Base())

	_, err = store.ParsePath("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-htop-3.2.2/bin/htop")
	fmt.Println(err)
	// Output:
	// htop-3.2.2
	// aj2q88glyrgps19f9gidl6xyb2arnfvh-htop-3.2.2
	// parsing store path: unable to parse path: invalid character in path: /nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-htop-3.2.2/bin/htop
}
