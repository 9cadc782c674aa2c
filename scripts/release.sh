#!/usr/bin/env bash
# Makes a release of the commit that is checked out: for linux/amd64 and linux/arm64 the program and its SBOM, the image for both as an
# OCI layout, and SHA256SUMS, in OUT/VERSION. The same commit gives the same bytes, on any day and in any directory. VERSION is that of
# cmd/registry/VERSION, with the commit after it unless the commit has the tag vVERSION.
#
# Usage: scripts/release.sh [OUT]   (build/release; `make release`)
#
# Debian's packages stay in OUT/packages. scripts/fetch-debian.sh says where they come from.
#
# Needs: Go, git, curl, apt with sources of Debian's packages; no root.
set -euo pipefail
export LC_ALL=C

# What decides on the bytes of a program, beside its source.
export GOTOOLCHAIN=go1.26.8 GOFLAGS='' GOEXPERIMENT='' CGO_ENABLED=0 GOOS=linux GOAMD64=v1 GOARM64=v8.0 TZ=UTC
sbom=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

out=$(realpath -m "${1:-$(dirname "$0")/../build/release}")
cd "$(dirname "$0")/.."
lock=deploy/debian.lock

if [ -n "$(git status --porcelain)" ]; then
  echo "release.sh: commit or remove these changes first, so that the release is what its commit says:" >&2
  git status --short >&2
  exit 1
fi
version=$(cat cmd/registry/VERSION)
commit=$(git rev-parse HEAD)
epoch=$(git log -1 --format=%ct)
[ "$(git describe --exact-match --match "v$version" 2>/dev/null)" = "v$version" ] || version=$version-${commit:0:12}

scripts/fetch-debian.sh "$lock" "$out/packages"

made=$out/.made
rm -rf "$made"
mkdir "$made"
for architecture in amd64 arm64; do
  program=registry-linux-$architecture
  GOARCH=$architecture go build -trimpath -buildvcs=true -o "$made/$program" -ldflags "-s -w \
    -X github.com/distribution/distribution/v3/version.version=$(go list -m -f '{{.Version}}' github.com/distribution/distribution/v3) \
    -X github.com/distribution/distribution/v3/version.revision=$commit" ./cmd/registry
  GOOS='' go run -trimpath "$sbom" bin -json -noserial -notimestamp -std -version "v$version" -output "$made/$program.cdx.json" "$made/$program"
done
GOOS='' go run ./internal/release -lock "$lock" -packages "$out/packages" -programs "$made" -version "$version" -revision "$commit" \
  -created "$epoch" -out "$made/image.oci.tar"
(cd "$made" && sha256sum -- * >SHA256SUMS)

rm -rf "${out:?}/$version"
mv "$made" "$out/$version"
echo "release.sh: $out/$version"
