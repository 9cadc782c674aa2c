#!/usr/bin/env bash
# Fetches the Debian packages of a lock file into DIR, each named by its SHA-256, which whoever reads them checks. What is there stays.
#
# Usage: scripts/fetch-debian.sh LOCK DIR
#
#   MIRROR, SECURITY_MIRROR   where they come from: apt's mirrors, or a day of snapshot.debian.org when those no longer have the versions
#                             of the lock file: https://snapshot.debian.org/archive/debian/20261127T000000Z and
#                             https://snapshot.debian.org/archive/debian-security/20261127T000000Z
#
# Needs: curl, apt with sources of Debian's packages; no root.
set -euo pipefail
export LC_ALL=C

lock=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)

# mirror of "Debian" or "Debian-Security" is the one that apt uses on this machine.
mirror() {
  # shellcheck disable=SC2016 # apt's own placeholder
  apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
    awk -v label="$1" '$1 == label && !seen++ { sub("/$", "", $2); print $2 }'
}
main=${MIRROR:-$(mirror Debian)}
security=${SECURITY_MIRROR:-$(mirror Debian-Security)}
if [ -z "$main" ] || [ -z "$security" ]; then
  echo "fetch-debian.sh: apt has no sources of Debian's main and security archives; set MIRROR and SECURITY_MIRROR" >&2
  exit 1
fi

# Others may fetch into the same directory.
work=$(mktemp -d "$dir/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
awk -F '\t' -v main="$main" -v security="$security" '!/^#/ { print $7, ($4 == "main" ? main : security) "/" $5 }' "$lock" | sort -u |
  while read -r sum url; do
    [ -e "$dir/$sum" ] || printf 'url = "%s"\noutput = "%s"\n' "$url" "$work/$sum"
  done >"$work.list"
trap 'rm -rf "$work" "$work.list"' EXIT
[ -s "$work.list" ] || exit 0
echo "fetch-debian.sh: fetching $(grep -c ^url "$work.list") packages from $main and $security"
curl --no-progress-meter --fail --fail-early --location --retry 3 --parallel --parallel-max 6 --config "$work.list" || {
  echo "fetch-debian.sh: if a mirror no longer has a package of $lock, run \`make lock\`, or set MIRROR and SECURITY_MIRROR to a day of snapshot.debian.org" >&2
  exit 1
}
mv "$work"/* "$dir/"
