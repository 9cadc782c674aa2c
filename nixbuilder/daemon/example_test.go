package daemon_test

import (
	"fmt"
	"log"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

func ExampleOutputs() {
	hello, err := store.ParsePath("/nix/store/00000000000000000000000000000000-hello.drv")
	if err != nil {
		log.Fatal(err)
	}
	for _, names := range [][]string{{"out", "dev"}, nil} {
		target, err := daemon.Outputs(hello, names...)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(target)
	}
	_, err = daemon.Outputs("/nix/store/00000000000000000000000000000000-hello", "out")
	fmt.Println(err)
	// Output:
	// /nix/store/00000000000000000000000000000000-hello.drv!dev,out
	// /nix/store/00000000000000000000000000000000-hello.drv!*
	// asking for outputs of /nix/store/00000000000000000000000000000000-hello: not a derivation
}
