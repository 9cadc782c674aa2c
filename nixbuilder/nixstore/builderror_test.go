package nixstore

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nixery-registry/nixery-registry/nixbuilder/daemon"
	"github.com/nixery-registry/nixery-registry/nixbuilder/status"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store/storetest"
)

// TestFailures has what Nix answers and says, in the words of its versions. TestDifferences of
// package integration has Nix itself say them.
func TestFailures(t *testing.T) {
	app, lib := storetest.Path("app-1.drv"), storetest.Path("lib-1.drv")
	floats := store.Path(store.Dir + "/" + strings.Repeat("1", 32) + "-app-1.drv") // which Nix builds as app
	result := func(drv store.Path, status daemon.Status, message string) daemon.Result {
		target, err := daemon.Outputs(drv, "out")
		if err != nil {
			t.Fatal(err)
		}
		return daemon.Result{Target: target, Status: status, Message: strings.ReplaceAll(message, "DRV", string(drv))}
	}
	helper := "builder for 'DRV' failed with exit code 1;\nlast 1 log lines:\n> begun"
	const operator = status.Kind(-1) // the error is not for clients
	for _, test := range []struct {
		name    string
		lines   []string // of the daemon; APP and LIB are derivations
		results []daemon.Result
		err     error
		own     string // the last line of app's builder, beside the others
		kind    status.Kind
		want    string // how the message begins
	}{
		{
			name:    "its builder, 2.8",
			results: []daemon.Result{result(app, daemon.PermanentFailure, "builder for 'DRV' failed with exit code 3;\nlast 1 log lines:\n> linking")},
			kind:    status.Denied, want: "building app-1 failed with exit code 3; its last lines: linking; on the registry's host, `nix-store --read-log " + string(app) + "` has the whole log",
		},
		{
			name:    "its builder, 2.34",
			results: []daemon.Result{result(app, daemon.PermanentFailure, "Cannot build 'DRV'.\nReason: builder failed due to signal 9 (Killed).\nOutput paths:\n  /x")},
			kind:    status.Interrupted, want: "building app-1 was ended by SIGKILL, as where memory is short: ask again later; its last lines: linking",
		},
		{
			name:    "a builder that is asked to end, 2.8",
			results: []daemon.Result{result(app, daemon.PermanentFailure, "builder for 'DRV' failed due to signal 15 (Terminated)")},
			kind:    status.Interrupted, want: "building app-1 was ended by SIGTERM",
		},
		{
			name:    "what a builder runs is ended",
			results: []daemon.Result{result(app, daemon.PermanentFailure, "builder for 'DRV' failed with exit code 137")},
			kind:    status.Interrupted, want: "building app-1 was ended by SIGKILL",
		},
		{
			name:    "a builder that fetches and is ended",
			results: []daemon.Result{result(app, daemon.TransientFailure, "builder for 'DRV' failed due to signal 9 (Killed)")},
			kind:    status.Interrupted, want: "building app-1 was ended by SIGKILL",
		},
		{
			name:    "a builder that Nix ends",
			results: []daemon.Result{result(app, daemon.LogLimitExceeded, "builder for 'DRV' failed due to signal 9 (Killed)")},
			kind:    status.Denied, want: "building app-1 failed due to signal 9 (Killed)",
		},
		{
			name:    "a builder that crashes",
			results: []daemon.Result{result(app, daemon.PermanentFailure, "builder for 'DRV' failed due to signal 11 (Segmentation fault)")},
			kind:    status.Denied, want: "building app-1 failed due to signal 11 (Segmentation fault)",
		},
		{
			name:    "a full disk",
			results: []daemon.Result{result(app, daemon.TransientFailure, "builder for 'DRV' failed with exit code 1;\nlast 1 log lines:\n> x\n  note: build failure may have been caused by lack of free disk space")},
			kind:    status.Interrupted, want: "building app-1 failed for want of disk space: ask again later",
		},
		{
			name:    "a builder that says that a disk is full",
			results: []daemon.Result{result(app, daemon.PermanentFailure, "builder for 'DRV' failed with exit code 1;\nlast 1 log lines:\n> note: build failure may have been caused by lack of free disk space")},
			kind:    status.Denied, want: "building app-1 failed with exit code 1",
		},
		{
			name: "a dependency's builder",
			results: []daemon.Result{
				result(app, daemon.MiscFailure, ""), result(
					lib, daemon.PermanentFailure,
					"Cannot build 'DRV'.\nReason: builder failed with exit code 3.",
				),
			},
			kind: status.Denied, want: "building lib-1 failed with exit code 3; its last lines: compiling this | error: no",
		},
		{
			name: "too slow",
			results: []daemon.Result{
				result(app, daemon.MiscFailure, ""),
				result(lib, daemon.TimedOut, "timed out after 2 seconds"),
			},
			kind: status.Denied, want: "building lib-1 took longer than this registry allows; its last lines: compiling",
		},
		{
			name: "another hash",
			results: []daemon.Result{
				result(app, daemon.DependencyFailed, "1 dependencies of derivation 'DRV' failed to build"),
				result(
					lib, daemon.OutputRejected,
					"hash mismatch in fixed-output derivation 'DRV':\n  specified: sha256-A=\n     got:    sha256-B=",
				),
			},
			kind: status.Denied, want: "building lib-1 failed: what it fetches has the hash sha256-B=, and the package set says sha256-A=",
		},
		{
			name:    "no output",
			results: []daemon.Result{result(storetest.Path("none.drv"), daemon.OutputRejected, "builder for 'DRV' failed to produce output path for output 'dev' at \"/nix/store/x\"")},
			kind:    status.Denied, want: "building none failed: its builder ended well, but made no output dev",
		},
		{
			name:    "forbidden references",
			results: []daemon.Result{result(storetest.Path("none.drv"), daemon.OutputRejected, "output '/nix/store/x' is not allowed to refer to the following paths:\n  "+string(lib)+"\n  "+string(app))},
			kind:    status.Denied, want: "building none failed: its output refers to what it may not refer to: app-1.drv, lib-1.drv",
		},
		{
			name:    "a cycle, 2.34",
			results: []daemon.Result{result(storetest.Path("none.drv"), daemon.OutputRejected, "cycle detected in build of 'DRV' in the references of output 'out' from output 'dev'")},
			kind:    status.Denied, want: "building none failed: its outputs dev and out refer to each other",
		},
		{
			name: "a cycle, 2.26",
			err:  &daemon.Error{Message: "cycle detected in build of '" + string(storetest.Path("none.drv")) + "' in the references of output 'dev' from output 'out'"},
			kind: status.Denied, want: "building none failed: its outputs dev and out refer to each other",
		},
		{
			name: "a file of another type",
			err: &daemon.Error{Message: "file '" + string(storetest.Path("none.drv")) + ".chroot/root" +
				string(storetest.Path("none")) + "' has an unsupported type"},
			kind: status.Denied, want: "building none failed: its output has something that is neither",
		},
		{
			name: "another platform, 2.26",
			err:  &daemon.Error{Message: "a 'riscv64-linux' with features {} is required to build '" + string(lib) + "', but I am a 'x86_64-linux' with features {kvm}"},
			kind: status.Denied, want: "building lib-1 needs a machine for riscv64-linux: give Nix",
		},
		{
			name: "features, 2.26",
			err:  &daemon.Error{Message: "a 'riscv64-linux' with features {kvm, warp} is required to build '" + string(lib) + "', but I am a 'x86_64-linux' with features {kvm}"},
			kind: status.Denied, want: "building lib-1 needs a machine for riscv64-linux with kvm, warp: give Nix",
		},
		{
			name:    "another platform, 2.34",
			results: []daemon.Result{result(lib, daemon.InputRejected, "Cannot build 'DRV'.\nReason: platform mismatch\nRequired system: 'riscv64-linux'\nCurrent system: 'x86_64-linux'")},
			kind:    status.Denied, want: "building lib-1 needs a machine for riscv64-linux: give Nix",
		},
		{
			name:    "features, 2.34",
			results: []daemon.Result{result(lib, daemon.InputRejected, "Cannot build 'DRV'.\nReason: missing system features\nRequired features: {warp}\nAvailable features: {kvm}")},
			kind:    status.Denied, want: "building lib-1 needs a machine with warp: give Nix",
		},
		{
			name: "a builder out of reach, 2.26", lines: []string{"cannot build on 'ssh://a': error: cannot connect to 'a': Connection refused"},
			err:  &daemon.Error{Message: "a 'riscv64-linux' with features {} is required to build '" + string(lib) + "', but I am a 'x86_64-linux' with features {kvm}"},
			kind: operator, want: "building lib-1.drv, which needs a machine for riscv64-linux: cannot build on 'ssh://a'",
		},
		{
			name: "a builder out of reach, 2.34", lines: []string{"cannot build on 'ssh://a': error: cannot connect to 'a': Connection refused"},
			results: []daemon.Result{result(lib, daemon.InputRejected, "Cannot build 'DRV'.\nReason: missing system features\nRequired features: {warp}\nAvailable features: {kvm}")},
			kind:    operator, want: "building lib-1.drv, which needs a machine with warp: cannot build on 'ssh://a'",
		},
		{
			name: "on a remote builder",
			lines: []string{
				"error: build of 'LIB' on 'ssh://a' failed: builder for 'LIB' failed with exit code 2",
				"error: build of 'APP' on 'ssh://a' failed: builder for 'APP' failed with exit code 3",
			},
			results: []daemon.Result{result(app, daemon.MiscFailure, helper)},
			kind:    status.Denied, want: "building app-1 failed with exit code 3; its last lines: linking",
		},
		{
			name: "on a remote builder, 2.34",
			lines: []string{
				"error: Cannot build 'LIB'.", "       Reason: builder failed with exit code 2.", "       Output paths:",
				"error: build of 'APP' on 'ssh-ng://a' failed: Cannot build 'APP'.", "       Reason: builder failed with exit code 3.",
			},
			results: []daemon.Result{result(app, daemon.MiscFailure, "Cannot build 'DRV'.\nReason: builder failed with exit code 1.")},
			kind:    status.Denied, want: "building app-1 failed with exit code 3; its last lines: linking",
		},
		{
			name:    "too slow on a remote builder",
			lines:   []string{"error: build of 'APP' on 'ssh-ng://a' failed: building of 'APP!out' from in-memory derivation timed out after 3 seconds"},
			results: []daemon.Result{result(app, daemon.MiscFailure, helper)},
			kind:    status.Denied, want: "building app-1 took longer than this registry allows",
		},
		{
			name: "a lost builder", lines: []string{"error: unexpected end-of-file"}, results: []daemon.Result{result(app, daemon.MiscFailure, helper)},
			kind: operator, want: "building app-1.drv: lost the remote builder",
		},
		{
			name: "a lost builder, ssh-ng", lines: []string{"error: Nix daemon disconnected unexpectedly (maybe it crashed?)"}, results: []daemon.Result{result(app, daemon.MiscFailure, helper)},
			kind: operator, want: "building app-1.drv: lost the remote builder",
		},
		{
			name: "what is fetched", results: []daemon.Result{
				result(app, daemon.MiscFailure, ""),
				result(lib, daemon.TransientFailure, "builder for 'DRV' failed with exit code 7;"),
			},
			kind: status.Denied, want: "fetching lib-1 failed with exit code 7; its last lines: compiling this | error: no",
		},
		{
			name: "what Nix itself fetches", own: "error: unable to download 'http://a/x': Could not connect to server (7)",
			results: []daemon.Result{result(app, daemon.TransientFailure, "builder for 'DRV' failed with exit code 1;")},
			kind:    status.Unavailable, want: "fetching app-1 failed with exit code 1; its last lines: linking | error: unable to download",
		},
		{
			name: "what is not there for Nix to fetch", own: "error: unable to download 'http://a/x': HTTP error 404",
			results: []daemon.Result{result(app, daemon.TransientFailure, "builder for 'DRV' failed with exit code 1;")},
			kind:    status.Denied, want: "fetching app-1 failed with exit code 1; its last lines: linking | error: unable to download",
		},
		{
			name: "no sandbox", err: &daemon.Error{Message: "derivation '" + string(app) + "' has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'"},
			kind: status.Denied, want: "building app-1 failed: it asks to be built outside of Nix's sandbox (__noChroot), which this registry's Nix does not do",
		},
		{
			name: "what is the host's", err: &daemon.Error{Message: "derivation '" + string(app) + "' requested impure path '/etc', but it was not in allowed-impure-host-deps"},
			kind: status.Denied, want: "building app-1 failed: it asks for /etc of the host (__impureHostDeps), which this registry's Nix does not give",
		},
		{
			name: "too long a name", err: &daemon.Error{Message: "opening directory '" + string(app) + ".chroot/root/nix/store/00000000000000000000000000000000-app-1/0/0': File name too long"},
			kind: status.Denied, want: "building app-1 failed: a file that it makes has too long a name",
		},
		{
			name: "too long a name where it is built", err: &daemon.Error{Message: `opening directory "/tmp/nix-build-app-1.drv-1/build/deep/0/0": File name too long`},
			kind: status.Denied, want: "building this image failed: a file that it makes has too long a name",
		},
		{
			name: "a graph of what there is not, 2.34", err: &daemon.Error{Message: "path '/etc/passwd' is not in the Nix store"},
			kind: status.Denied, want: "building this image failed: path '…' is not in the Nix store",
		},
		{
			name:    "a directory of a known hash, 2.26",
			results: []daemon.Result{result(app, daemon.OutputRejected, "output path 'DRV.chroot/root/nix/store/00000000000000000000000000000000-app-1' should be a non-executable regular file since recursive hashing is not enabled (one of outputHashMode={flat,text} is true)")},
			kind:    status.Denied, want: "building app-1 failed: the package set says that its output is a file of a known hash, and it made a directory or a program",
		},
		{
			name:    "references of a known hash, 2.26",
			results: []daemon.Result{result(app, daemon.OutputRejected, "fixed-output derivations must not reference store paths: 'DRV' references 1 distinct paths, e.g. '/nix/store/00000000000000000000000000000000-lib-1'")},
			kind:    status.Denied, want: "building app-1 failed: its output has a known hash, and may not refer to store paths, but does",
		},
		{
			name: "where it is built", own: "cc: /tmp/nix-build-app-1.drv-0/x.c, /nix/var/nix/builds/nix-31-4/build/x.c, /nix/store/00000000000000000000000000000000-lib-1/x.h: no",
			results: []daemon.Result{result(app, daemon.PermanentFailure, "builder for 'DRV' failed with exit code 1")},
			kind:    status.Denied, want: "building app-1 failed with exit code 1; its last lines: linking | cc: /build/x.c, /build/x.c, /nix/store/00000000000000000000000000000000-lib-1/x.h: no",
		},
		{
			name:    "no words for it, and paths of the host",
			results: []daemon.Result{result(app, daemon.OutputRejected, `moving "DRV.chroot/root/nix/store/00000000000000000000000000000000-app-1" to '/srv/nix/store/00000000000000000000000000000000-app-1' at /var/x: no`)},
			kind:    status.Denied, want: `building app-1 failed: moving "app-1" to '…' at … no`,
		},
		{
			name:    "a dependency that a cache doesn't give",
			lines:   []string{"error: some substitutes for the outputs of derivation 'LIB' failed (usually happens due to networking issues); try '--fallback' to build derivation from source"},
			results: []daemon.Result{result(app, daemon.TransientFailure, "some substitutes for the outputs of derivation 'DRV' failed (usually happens due to networking issues)")},
			kind:    status.Unavailable, want: "fetching app-1 failed: a binary cache that has it doesn't give it",
		},
		{
			name: "a derivation that another one stands for, 2.26",
			lines: []string{
				"error: builder for 'LIB' failed with exit code 2;",
				"error: builder for 'APP' failed with exit code 4;", "       last 1 log lines:",
			},
			results: []daemon.Result{result(floats, daemon.PermanentFailure, "")},
			kind:    status.Denied, want: "building app-1 failed with exit code 4; its last lines: linking; on the registry's host, `nix-store --read-log " + string(app) + "`",
		},
		{
			name: "a derivation that another one stands for, 2.34",
			lines: []string{
				"error: Cannot build 'APP'.", "       Reason: builder failed with exit code 4.",
				"       Output paths:",
			},
			results: []daemon.Result{result(floats, daemon.DependencyFailed, "build of resolved derivation '"+string(app)+"' failed")},
			kind:    status.Denied, want: "building app-1 failed with exit code 4; its last lines: linking",
		},
		{
			name:    "too slow a derivation that another one stands for, 2.8",
			lines:   []string{"error: building of 'APP' timed out after 2 seconds"},
			results: []daemon.Result{result(floats, daemon.TimedOut, "")},
			kind:    status.Denied, want: "building app-1 took longer than this registry allows; its last lines: linking",
		},
		{
			name:    "a cache with another key, 2.8",
			lines:   []string{"warning: the substitute for '/nix/store/00000000000000000000000000000000-app-1' from 'http://a' is not signed by any of the keys in 'trusted-public-keys'"},
			results: []daemon.Result{result(app, daemon.PermanentFailure, "builder for 'DRV' failed with exit code 3")},
			kind:    status.Denied, want: "building app-1 failed with exit code 3; a binary cache has app-1, but no key that this registry trusts has signed that; its last lines: linking",
		},
		{
			name: "a cache with another key, 2.34",
			lines: []string{
				"warning: ignoring substitute for '/nix/store/00000000000000000000000000000000-app-1' from 'http://a', as it's not signed by any of the keys in 'trusted-public-keys'",
				"warning: ignoring substitute for '/nix/store/00000000000000000000000000000000-lib-1' from 'http://a', as it's not signed by any of the keys in 'trusted-public-keys'",
			},
			results: []daemon.Result{result(app, daemon.InputRejected, "Cannot build 'DRV'.\nReason: missing system features\nRequired features: {warp}\nAvailable features: {kvm}")},
			kind:    status.Denied, want: "building app-1 needs a machine with warp: give Nix a binary cache that has it, a remote builder, or emulation; a binary cache has app-1 and others, but",
		},
		{
			name:    "an archive that is gone",
			lines:   []string{"error: file 'nar/x.nar.xz' does not exist in binary cache 'http://a'"},
			results: []daemon.Result{result(app, daemon.PermanentFailure, "builder for 'DRV' failed with exit code 3")},
			kind:    status.Denied, want: "building app-1 failed with exit code 3; a binary cache has it, or what it is made of, but the archive is gone or damaged; its last lines",
		},
		{
			name:    "a cache that is left out",
			lines:   []string{"warning: unable to download 'http://a/nix-cache-info': HTTP error 503"},
			results: []daemon.Result{result(lib, daemon.TimedOut, "timed out after 2 seconds")},
			kind:    status.Unavailable, want: "building lib-1 took longer than this registry allows; a binary cache does not answer at the moment; its last lines: compiling",
		},
		{
			name:    "a cache that is left out, and a builder that fails all the same",
			lines:   []string{"warning: 'http://a' does not appear to be a binary cache"},
			results: []daemon.Result{result(app, daemon.PermanentFailure, "builder for 'DRV' failed with exit code 3")},
			kind:    status.Denied, want: "building app-1 failed with exit code 3; a binary cache does not answer at the moment",
		},
		{
			name: "an archive that can't be had at the moment, 2.26",
			lines: []string{
				"warning: error: unable to download 'http://a/nar/x.nar.xz': HTTP error 500; retrying in 252 ms",
				"error: unable to download 'http://a/nar/x.nar.xz': HTTP error 500",
			},
			results: []daemon.Result{{Target: daemon.Opaque(storetest.Path("app-1")), Status: daemon.NoSubstituters}},
			kind:    status.Unavailable, want: "fetching app-1 failed: a binary cache that has it does not answer as it should",
		},
		{
			name:    "a source that can't be had is no cache",
			lines:   []string{"error: unable to download 'http://a/source.tar.gz': HTTP error 500"},
			results: []daemon.Result{{Target: daemon.Opaque(storetest.Path("app-1")), Status: daemon.NoSubstituters}},
			kind:    status.Denied, want: "no binary cache has app-1",
		},
		{
			name: "a dependency of a dependency that a cache doesn't give",
			results: []daemon.Result{
				result(app, daemon.MiscFailure, ""),
				result(lib, daemon.MiscFailure, "some substitutes for the outputs of derivation 'DRV' failed"),
			},
			kind: status.Unavailable, want: "fetching lib-1 failed: a binary cache that has it doesn't give it",
		},
		{
			name:    "in no cache",
			results: []daemon.Result{{Target: daemon.Opaque(storetest.Path("app-1")), Status: daemon.NoSubstituters}},
			kind:    status.Denied, want: "no binary cache has app-1",
		},
		{
			name:    "no words for it",
			results: []daemon.Result{result(storetest.Path("none.drv"), daemon.NotDeterministic, "DRV differs\nfrom what it was")},
			kind:    status.Denied, want: "building none failed: none.drv differs",
		},
		{
			name:    "no words at all",
			results: []daemon.Result{result(storetest.Path("none.drv"), daemon.LogLimitExceeded, "")}, kind: status.Denied,
			want: "building none failed: log limit exceeded",
		},
		{name: "Nix", err: &daemon.Error{Message: "disk full"}, kind: operator, want: "nix: disk full"},
		{
			name:    "all is well",
			results: []daemon.Result{result(app, daemon.Built, ""), result(lib, daemon.AlreadyValid, "")},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := newBuildLog()
			for drv, lines := range map[store.Path][]string{
				app: {"linking", test.own}, lib: {"", "ErrorErrorHcompiling this", "error: no"},
			} {
				for _, line := range lines {
					log.add(daemon.LogLine{Drv: drv, Text: line})
				}
			}
			for _, line := range test.lines {
				line = strings.NewReplacer("APP", string(app), "LIB", string(lib)).Replace(line)
				other := storetest.Path("other.drv")
				log.add(daemon.LogLine{Drv: other, Text: line}) // a builder may write what it likes
				log.add(daemon.LogLine{Text: line})
			}
			err := log.failure(test.results, test.err)
			if test.want == "" {
				if err != nil {
					t.Errorf("failed with %v", err)
				}
				return
			}
			kind := operator
			var message string
			if failed := (*buildError)(nil); errors.As(err, &failed) {
				public := failed.public()
				kind, message = public.Kind, public.Message
			} else if err != nil {
				message = err.Error()
			}
			if kind != test.kind || !strings.HasPrefix(message, test.want) {
				t.Errorf("got  %d %s\nwant %d %s", kind, message, test.kind, test.want)
			}
		})
	}
}

// What Nix and builders say is kept up to a number of lines.
func TestBuildLogIsBounded(t *testing.T) {
	drv := storetest.Path("app-1.drv")
	log := newBuildLog()
	for range 3 * logLines {
		for _, line := range []string{"error: build of '" + string(drv) + "' on 'ssh://a' failed", "cannot build on 'ssh://a'", "error: unexpected end-of-file"} {
			log.add(daemon.LogLine{Text: line})
		}
		log.add(daemon.LogLine{Drv: drv, Text: "line"})
	}
	for _, list := range [][]string{log.failed, log.unusable, log.lost, log.tails[drv]} {
		if len(list) != logLines || slices.Contains(list, "") {
			t.Errorf("%d lines are kept: %q", len(list), list)
		}
	}
}
