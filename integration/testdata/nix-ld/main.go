// Command nix-ld stands in for nixpkgs' nix-ld in tests. The kernel starts it in the place of a
// program's loader. It starts the loader that NIX_LD names, with the libraries of
// NIX_LD_LIBRARY_PATH, as nix-ld does. Unlike nix-ld it does so by running the loader as a program,
// so what it starts can't tell its own name by /proc/self/exe.
package main

import (
	"log"
	"os"
	"slices"
	"syscall"
)

func main() {
	program, err := os.Readlink("/proc/self/exe") // that which the kernel was asked to start
	if err != nil {
		log.Fatal(err)
	}
	loader := os.Getenv("NIX_LD")
	args := slices.Concat(
		[]string{loader, "--library-path", os.Getenv("NIX_LD_LIBRARY_PATH"), "--argv0", os.Args[0], program}, os.Args[1:],
	)
	log.Fatalf("starting %s: %v", loader, syscall.Exec(loader, args, os.Environ()))
}
