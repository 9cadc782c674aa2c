// Bench measures the registry on this machine, each figure against something else measured in the
// same run, and prints tables for docs/performance.md, which says how to read them:
//
//	make bench
//	make bench GROUP=cold,memory RUNS=5
//	make bench GROUP=stored PEERS=zot=http://127.0.0.1:8080
//	scripts/with-nix.sh trixie make bench GROUP=nixpkgs SET=/srv/nixpkgs
//
// It serves the demo set (examples/debian) with the product's own binary, on loopback, and beside
// it the stock registry of the same version on the same storage. Tables go to stdout, progress to
// stderr. All it writes is below build/bench, which may be removed.
//
//   - main.go: what is asked for, and the report
//   - bench.go: what all groups share, and the tables
//   - server.go: a registry's life, what it uses, and what it is asked
//   - tools.go: plain tools on the same store paths
//   - stored.go: a group, with peers.go, files.go, pulls.go, drop.go and readers.go
//   - the others: a group each
package main
