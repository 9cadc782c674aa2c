// Package integration tests the real registry binary with its real peers: Nix, docker, podman,
// skopeo, crane, containerd.
//
// # To add a test
//
// What users see belongs into a script: put a file NAME.txtar into testdata/. It is run by itself
// with
//
//	go test ./integration -run TestScripts/NAME -v
//
// Beside testscript's own commands it has these:
//
//	needs TOOL…                  skips the script where a tool is missing, or fails it in CI; starts docker's daemon
//	packages demo|fresh          chooses the package set of the next registry, and puts its directory into $PACKAGES
//	registry start [KEY=VALUE…]  starts a registry and puts its host:port into $ADDR
//	registry stop|kill|restart   ends it with SIGTERM or SIGKILL, starts it again on the same storage
//	registry log                 prints what it logged, for the command stdout to search
//	registry get PATH            prints status, headers and body of a GET, without following redirects
//
// KEY is a key path of the registry's configuration; what begins with "nix." is below the options
// of the nix middleware:
//
//	registry start nix.build.timeout=2s 'nix.names.deny=["git*"]' storage.maintenance.readonly.enabled=true
//
// Configuration files of the script's own are for `exec registry serve FILE`; $DEMO is the demo
// package set.
//
// What needs loops, concurrency or digests is a Go test. It gets a registry of its own, which is
// stopped when the test ends:
//
//	r := StartRegistry(t, "nix.build.hold=1s")
//	Exec(t, "skopeo", "inspect", "--tls-verify=false", "docker://"+r.Ref("shell/git"))
//
// A test that finds "panic" or a goroutine's stack in its registry's log fails. The log is shown
// when a test fails.
//
// # What there is
//
//   - suite.go: what all tests share, each part made when it is first needed, and removed at the end
//   - tools.go: programs, and what is done where they are missing
//   - registry.go: a registry's life
//   - client.go: manifests and blobs over plain HTTP
//   - verify.go: every claim of an image, checked against its bytes and the Nix store
//   - engine.go: docker with a daemon of the tests' own, podman
//   - packages.go: the package sets
//   - weather.go: a network that ends, keeps silent, drips or breaks
//   - ownstore.go: a Nix store of a test's own, as for one that is collected
//
// The demo package set is examples/debian; what a test builds of it is already in the machine's Nix
// store the next time. Where a build itself is tested, FreshPackages has small packages that no
// store has built yet.
package integration
