#!/usr/bin/env bash
# Has the last release and the version at hand serve one storage at once, under load: the test TestUpgrade. Takes a minute or two, most of
# which is building the release.
#
# Usage: scripts/test-upgrade.sh [COMMIT]   (the commit of the last release; `make test-upgrade`)
# Needs: Go, git with the history since that commit (or as far as there is one), and what the tests of integration/ need.
set -euo pipefail
cd "$(dirname "$0")/.."

# The tag of the last release; 0.1.0 was none.
previous=${1:-$(git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null || echo 54723de5575e)}
if ! git cat-file -e "$previous^{commit}" 2>/dev/null; then
  missing=$previous
  previous=$(git rev-list --max-parents=0 HEAD | tail -n 1)
  echo "test-upgrade.sh: this clone has no commit $missing: taking its oldest, $previous (git fetch --unshallow --tags)" >&2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source"
git archive "$previous" | tar -x -C "$work/source"
go build -C "$work/source" -o "$work/registry" ./cmd/registry
echo "test-upgrade.sh: $previous and this version serve one storage"
PREVIOUS=$work/registry go test -count=1 -tags upgrade -timeout 10m -run TestUpgrade ./integration
