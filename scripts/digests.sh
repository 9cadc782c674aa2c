#!/usr/bin/env bash
# Prints the manifest digests of twenty images of the demo set, a line each: FORM NAME DIGEST. They are of both platforms, of
# every compression, of few layers, and made without a Nix store. On one machine, a change of the code that should not change
# images leaves them as they are. With DIR, the storage stays there, and a second run shows that what is there is used.
#
# Usage: scripts/digests.sh [DIR]
# Needs: build/registry and build/demo, which `make digests` makes; nix; apt-get and dpkg-deb the first time, for arm64.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "$0")/.."
root=$PWD
dir=${1:-}
if [ -z "$dir" ]; then
  dir=$(mktemp -d)
  chmod 755 "$dir" # evaluations run as another user
  trap 'rm -rf "$dir"' EXIT
fi
mkdir -p "$dir"
dir=$(realpath "$dir")
export NIX_CONFIG='substituters ='

# images FORM SET OPTIONS NAME... builds images with options of the stanza in YAML's flow form.
images() {
  local form=$1 set=$2 options=$3
  shift 3
  cat >"$dir/$form.yml" <<YAML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: "$dir/$form"}}
http: {addr: "127.0.0.1:0"}
middleware:
  repository:
    - name: nix
      options: {packages: {path: "$set"}, cachedir: "$dir/cache", $options}
YAML
  build/registry nix build --config "$dir/$form.yml" "$@" | awk -v form="$form" '{ print form, $1, $2 }' | sort
}

# cache SET ATTRIBUTE... makes a binary cache of what packages need, and prints the public key that it is signed with.
cache() {
  local set=$1 paths
  shift
  local attributes=()
  for name in "$@"; do attributes+=(-A "$name"); done
  [ -e "$dir/key" ] || nix-store --generate-binary-cache-key demo-1 "$dir/key" "$dir/key.pub"
  paths=$(nix-build --no-out-link "$set" "${attributes[@]}" 2>/dev/null)
  # shellcheck disable=SC2086 # a path each
  nix --extra-experimental-features nix-command copy --quiet --to "file://$dir/binarycache?compression=none&secret-key=$dir/key" $paths
  cat "$dir/key.pub"
}

examples/debian/make.sh build/demo-arm64 amd64 arm64 -- hello git htop coreutils ca-certificates netbase >/dev/null

demo=$root/build/demo arms=$root/build/demo-arm64 none='nix: {substituters: []}'
images gzip "$demo" "$none" hello shell/git/htop nginx python3/tree perl
images zstd "$demo" "$none, image: {compression: zstd}" hello shell/git/perl/python3 git/nginx
images none "$demo" "$none, image: {compression: none}" hello git
images estargz "$demo" "$none, image: {compression: estargz}" hello tree
images chunked "$demo" "$none, image: {compression: 'zstd:chunked'}" hello tree
images layers "$demo" "$none, image: {layers: 4}" shell/git/htop
images platforms "$arms" "$none, platforms: [linux/amd64, linux/arm64]" hello git/htop arm64/htop
key=$(cache "$demo" hello tree git cacert iana-etc)
images storeless "$demo" \
  "build: {storeless: true}, nix: {substituters: ['file://$dir/binarycache'], trustedpublickeys: ['$key']}" hello tree/git
