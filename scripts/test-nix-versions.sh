#!/usr/bin/env bash
# Runs the tests that depend on what Nix says and does with the Nix of three Debian suites, from the oldest that is supported to today's. The one that is
# installed is left out: all tests run with it. sid moves: if its Nix is newer than all that is recorded (scripts/record-nix.sh), what differs is printed, and
# is no failure.
#
# Usage: scripts/test-nix-versions.sh
# Needs: what scripts/with-nix.sh needs, go, and what the tests need.
set -euo pipefail

if [ "$(id -u)" -ne 0 ] && [ -z "${CI:-}" ]; then
  echo "test-nix-versions.sh: root is needed; nothing was tested"
  exit 0
fi
cd "$(dirname "$0")/.."
tests=(
  BadPackages BadPackageSets CachedPackages CacheFaults ChannelSource CraneValidates Determinism Differences Edit Flake GitSource Kill KilledBuilder KilledDaemon
  LayoutOfBinaryCache MendedCache NixBuild PackingOverlapsDownloads Platforms Prebuild RemoteBuilders Scripts StorelessBuilds Substituters
)
pattern="^Test($(IFS='|' && echo "${tests[*]}"))\$"

# run SUITE: the tests, with its Nix.
run() {
  scripts/with-nix.sh "$1" go test -count=1 -timeout 20m ./nixbuilder/daemon ./nixbuilder/eval &&
    scripts/with-nix.sh "$1" go test -count=1 -timeout 20m -run "$pattern" ./integration
}

installed=$(nix --version)
recorded=$(find nixbuilder/daemon/testdata -name 'nix-*' -printf '%f\n' | sed 's/^nix-//' | sort --version-sort | tail -n 1)
for suite in bookworm trixie sid; do
  version=$(scripts/with-nix.sh "$suite" nix --version)
  if [ "$version" = "$installed" ]; then
    echo "== $version is installed"
    continue
  fi
  echo "== $version, of Debian $suite"
  if ! run "$suite"; then
    newest=$(printf '%s\n' "$recorded" "${version##* }" | sort --version-sort | tail -n 1)
    [ "$suite" = sid ] && [ "$newest" != "$recorded" ] || exit 1
    echo "== this Nix is newer than $recorded, the newest that is known: what differs is to be looked at"
  fi
done
