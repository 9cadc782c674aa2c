#!/usr/bin/env bash
# Runs every fuzz target of the module for a while.
#
# Usage: scripts/fuzz.sh TIME   (such as 30s, for each target)
set -euo pipefail

cd "$(dirname "$0")/.."
for package in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    echo "== $package $target"
    # What is interesting need not be small: making it so takes up to a minute each.
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 10x "$package"
  done
done
