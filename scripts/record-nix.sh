#!/usr/bin/env bash
# Records what each Nix says: conversations with its daemon, which TestRecorded replays (nixbuilder/daemon/testdata/nix-VERSION…), and the registry's answers
# for packages that fail in every way, with which TestDifferences compares (integration/testdata/differences/nix-VERSION.txt).
#
# Usage: scripts/record-nix.sh [SUITE]…   (bookworm trixie sid)
# Needs: what scripts/with-nix.sh needs, go, a static busybox.
set -euo pipefail

cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- bookworm trixie sid
for suite; do
  scripts/with-nix.sh "$suite" env RECORD=1 go test -count=1 -run '^TestRecorded$' ./nixbuilder/daemon
  scripts/with-nix.sh "$suite" env UPDATE=1 go test -count=1 -run '^TestDifferences$' ./integration
done
