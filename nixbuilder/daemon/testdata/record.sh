#!/usr/bin/env bash
# Records the conversation that TestRecorded replays, with the Nix that is installed, as testdata/nix-VERSION.
# Usage: testdata/record.sh
# Needs: go, Nix 2.8 or later (nix-daemon, nix-instantiate, nix-store), a static busybox, and root or user namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."
RECORD=1 go test -count=1 -run '^TestRecorded$' .
