#!/usr/bin/env bash
# Runs a command with the Nix of a Debian suite, which is fetched into build/ unless it is there. The command sees a /nix and build users of that Nix's own:
# two Nixes share neither a store, nor users, whose processes each of them ends.
#
# Usage: scripts/with-nix.sh SUITE COMMAND [ARGUMENT]…   (SUITE: bookworm, trixie, sid)
# Needs: root, and what scripts/get-nix.sh needs. /nix must exist.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
nix=$root/build/nix-$1
case $1 in
  bookworm | trixie | sid) ;;
  *)
    echo "with-nix.sh: $1 is none of bookworm, trixie and sid" >&2
    exit 2
    ;;
esac
# Other checkouts have other users, too.
read -r sum _ < <(printf '%s' "$nix" | cksum)
uid=$((100000 + sum % 100000 * 10))
"$root/scripts/get-nix.sh" "$1" "$nix" >&2
shift

mkdir -p "$nix"/{nix,etc}
# Files that others see through their mounts are replaced, not written to.
etc=$(mktemp -d "$nix/etc/new-XXXXXX")
{ grep -v '^nixbld' /etc/passwd; for n in 1 2 3 4 5 6 7 8; do echo "nixbld$n:x:$((uid + n)):$uid::/var/empty:/usr/sbin/nologin"; done; } >"$etc/passwd"
{ grep -v '^nixbld' /etc/group; echo "nixbld:x:$uid:nixbld1,nixbld2,nixbld3,nixbld4,nixbld5,nixbld6,nixbld7,nixbld8"; } >"$etc/group"
chmod 644 "$etc"/*
mv "$etc"/* "$nix/etc/"
rmdir "$etc"
# shellcheck disable=SC2016 # for the inner shell
exec unshare --mount --propagation private bash -euc '
  mount --bind "$1/nix" /nix
  mount --bind "$1/etc/passwd" /etc/passwd
  mount --bind "$1/etc/group" /etc/group
  export PATH="$1/bin:$PATH"
  shift
  exec "$@"
' with-nix "$nix" "$@"
