#!/usr/bin/env bash
# Writes the lock file of the released image: the Debian packages that the Dockerfile names, a minimal Debian below them, and all that
# they depend on, each by version, SHA-256 and place in the archive. apt chooses them as it does in a container of debian:trixie-slim,
# and checks the archive's signatures; the machine's own packages do not count. Takes half a minute and 100 MB of lists, which it removes.
#
# Usage: scripts/lock-debian.sh [FILE]   (deploy/debian.lock; `make lock`)
# Needs: apt with sources of Debian's packages, debian-archive-keyring; no root.
set -euo pipefail
export LC_ALL=C

suite=trixie
root=$(cd "$(dirname "$0")/.." && pwd)
file=${1:-$root/deploy/debian.lock}

# The Dockerfile is the one place that names them.
read -r -a wanted < <(sed -n 's/.*apt-get install --yes --no-install-recommends \([^&\\]*\).*/\1/p' "$root/Dockerfile")
[ "${#wanted[@]}" -gt 0 ] || { echo "lock-debian.sh: found no line apt-get install in the Dockerfile" >&2; exit 1; }

# mirror of "main" or "security" is the one that apt uses on this machine.
mirror() {
  # shellcheck disable=SC2016 # apt's own placeholder
  apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
    awk -v label="$1" '$2 == label && !seen++ { sub("/$", "", $1); print $1 }'
}
main=$(mirror Debian)
security=$(mirror Debian-Security)
if [ -z "$main" ] || [ -z "$security" ]; then
  echo "lock-debian.sh: apt has no sources of Debian's main and security archives" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trusted="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
cat >"$work/sources.list" <<SOURCES
deb $trusted $main $suite main
deb $trusted $main $suite-updates main
deb $trusted $security $suite-security main
SOURCES

for architecture in amd64 arm64; do
  state=$work/$architecture
  mkdir -p "$state"/{lists/partial,archives/partial}
  : >"$state/status" # nothing is installed
  cat >"$state/apt.conf" <<CONFIGURATION
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "$state";
Dir::State::status "$state/status";
Dir::State::lists "$state/lists";
Dir::Cache "$state";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
CONFIGURATION
  apt-get -qq -c "$state/apt.conf" update
  apt-get -q -y -c "$state/apt.conf" --print-uris install '?priority(required)' '?essential' apt "${wanted[@]}" >"$state/chosen"
  # 'URL' NAME_VERSION_ARCHITECTURE.deb SIZE SUM
  awk '/^\047/ { split($2, part, "_"); gsub("%3a", ":", part[2]); print part[1] "=" part[2] }' "$state/chosen" >"$state/names"
  xargs apt-cache -c "$state/apt.conf" show <"$state/names" >"$state/stanzas"
  awk -F ': ' -v OFS='\t' -v architecture="$architecture" '
    $1 == "Package" { package = $2 }
    $1 == "Version" { version = $2 }
    $1 == "Filename" { path = $2 }
    $1 == "SHA256" { sum = $2 }
    $1 == "Size" { size = $2 }
    /^$/ { print architecture, package, version, path ~ /\/updates\// ? "security" : "main", path, size, sum }
  ' "$state/stanzas" | sort -u >"$state/lines"
  [ "$(wc -l <"$state/lines")" -eq "$(wc -l <"$state/names")" ] ||
    { echo "lock-debian.sh: apt chose $(wc -l <"$state/names") packages for $architecture, and knows $(wc -l <"$state/lines")" >&2; exit 1; }
done
{
  echo "# The Debian packages of the released image, by scripts/lock-debian.sh: architecture, package, version, archive, path, bytes, SHA-256."
  date --utc '+# made: %Y-%m-%dT%H:%M:%SZ'
  cat "$work"/{amd64,arm64}/lines
} >"$work/lock"
mv "$work/lock" "$file"
chmod 644 "$file"
