#!/usr/bin/env bash
# Serves a package set in the foreground, and says what to type next once it answers.
#
# Usage: scripts/run.sh ADDR [PACKAGES]   (PACKAGES: a directory or .nix file, or channel:NAME; otherwise the demo set)
# Needs: build/registry and build/demo, which `make run` makes. Images are kept in build/run between runs.
set -euo pipefail

addr=$1
start=$PWD
cd "$(dirname "$0")/.."
substituters='nix: {}'
case "${2:-}" in
  '')
    packages="{path: $PWD/build/demo}"
    substituters='nix: {substituters: []}' # the demo set needs none
    ;;
  channel:*) packages="{channel: ${2#channel:}}" ;;
  /*) packages="{path: $2}" ;;
  *) packages="{path: $start/$2}" ;;
esac
# The Nix that scripts/setup.sh brought, because the machine's is too old for nixpkgs, is the only one from then on: two share no store.
[ ! -x build/nix/bin/nix ] || export PATH="$PWD/build/nix/bin:$PATH"
mkdir -p build/run
cat >build/run/config.yml <<END
version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: $PWD/build/run/storage}
  delete: {enabled: true}
http:
  addr: $addr
  draintimeout: 10s
middleware:
  repository:
    - name: nix
      options:
        packages: $packages
        build: {timeout: 5m}
        $substituters
END

build/registry serve build/run/config.yml &
registry=$!
trap 'kill "$registry" 2>/dev/null || true; wait "$registry" || true' EXIT INT TERM

host=localhost:${addr##*:}
for _ in $(seq 100); do
  kill -0 "$registry" 2>/dev/null || { wait "$registry"; exit 1; }
  if curl -fsS -o /dev/null "http://$addr/v2/" 2>/dev/null; then
    echo
    echo "Serving images of Nix packages. Ctrl-C ends it. Type next, in another terminal:"
    echo
    echo "  docker run --rm -ti $host/shell/git/htop"
    echo
    break
  fi
  sleep 0.1
done
wait "$registry"
