#!/usr/bin/env bash
#
# Makes a Nix package set of real Debian packages.
#
# Usage: make.sh OUTDIR [ARCHITECTURE…] [-- NAME…]
#
# OUTDIR becomes a directory with default.nix. ARCHITECTURE is Debian's name of one, such as amd64 or arm64; without any it
# is this machine's. With this machine's among them, this machine can build all. NAME is a Debian package that is wanted, with
# what it depends on; without any, all that packages.list beside this script says. OUTDIR.cache holds what apt fetched.
#
# Asked again, it does nothing unless a file beside it changed. OUTDIR is replaced whole, when everything is there; several
# runs take turns. The packages that are there stay: to get newer ones, remove OUTDIR.cache.
#
# Needs: apt with sources of Debian 12, dpkg-deb, awk, flock; no root.
set -euo pipefail
export LC_ALL=C

usage() {
  sed -n 's/^# \(Usage: .*\)/\1/p' "$0" >&2
  exit 2
}

# nix_system prints Nix's name of a platform for Debian's name of its architecture.
nix_system() {
  case $1 in
    amd64) echo x86_64-linux ;;
    arm64) echo aarch64-linux ;;
    *)
      echo "make.sh: no packages for architecture $1" >&2
      return 1
      ;;
  esac
}

# write_apt_configuration ARCHITECTURE keeps apt away from the machine's own state. Only Debian's archive counts, whatever
# else the machine gets packages from.
write_apt_configuration() {
  local state=$cache/$1/apt
  mkdir -p "$state/lists/partial" "$state/archives/partial" "$state/empty/partial"
  : > "$state/status"
  cat > "$state/preferences" <<PREFERENCES
Package: *
Pin: release o=Debian
Pin-Priority: 900

Package: *
Pin: release o=*
Pin-Priority: -1
PREFERENCES
  cat > "$state/apt.conf" <<CONFIGURATION
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "$1";
APT::Architectures { "$1"; };
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Dir::State "$state";
Dir::State::status "$state/status";
Dir::State::lists "$state/lists";
Dir::Cache "$state";
Dir::Cache::archives "$state/archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::preferences "$state/preferences";
Dir::Etc::preferencesparts "/dev/null";
CONFIGURATION
}

# resolve ARCHITECTURE fetches the closure of what is wanted and leaves it in $cache/ARCHITECTURE/set: the .deb files in
# pool/, and packages.json and bootstrap/busybox in a directory named after Nix's name of the platform.
resolve() {
  local arch=$1 state=$cache/$1/apt made=$cache/$1/set.new system
  local -a wanted chosen
  system=$(nix_system "$arch")
  # Of what lines of add name, resolve.awk takes what is needed; apt knows nothing of it.
  mapfile -t wanted < <(
    awk '$1 ~ /^(want|tool|add)$/ { for (i = $1 == "add" ? 3 : 2; i <= NF; i++) if (!seen[$i]++) print $i }' "$cache/packages.list"
  )

  echo "make.sh: fetching Debian packages for $arch" >&2
  write_apt_configuration "$arch"
  apt-get -qq -c "$state/apt.conf" update || echo "make.sh: some sources could not be read; going on without them" >&2
  apt-get -qq -y -c "$state/apt.conf" --download-only install "${wanted[@]}"
  # It names what it would fetch if there was nothing yet. (--simulate does too, and takes ten times as long.)
  mapfile -t chosen < <(
    apt-get -q -y -c "$state/apt.conf" -o Dir::Cache::archives="$state/empty" --print-uris install "${wanted[@]}" |
      awk '/^\047/ { sub(/_.*/, "", $2); print $2 }'
  )
  apt-cache -c "$state/apt.conf" show --no-all-versions "${chosen[@]}" > "$state/stanzas"

  rm -rf "$made"
  mkdir -p "$made/pool" "$made/$system/bootstrap"
  awk -f "$here/resolve.awk" "$cache/packages.list" "$state/stanzas" | sort > "$state/entries"
  { echo '{' && sed '$!s/$/,/' "$state/entries" && echo '}'; } > "$made/$system/packages.json"

  # apt writes epochs into the names of files, the archive does not.
  local deb name
  local -A needed
  while read -r name; do needed[$name]=1; done < <(grep -o '"file":"[^"]*"' "$state/entries" | cut -d '"' -f 4)
  for deb in "$state"/archives/*.deb; do
    name=${deb##*/}
    [[ $name != *_*%3a* ]] || name=${name%%_*}_${name#*%3a}
    name=${name//[^A-Za-z0-9+._-]/-}
    [[ -z ${needed[$name]:-} ]] || ln "$deb" "$made/pool/$name"
  done

  dpkg-deb --fsys-tarfile "$made"/pool/busybox-static_*_"$arch".deb | tar -xO ./bin/busybox > "$made/$system/bootstrap/busybox"
  chmod 755 "$made/$system/bootstrap/busybox"

  rm -rf "$cache/$arch/set"
  mv "$made" "$cache/$arch/set"
}

# digest FILE… identifies what files hold.
digest() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

[[ $# -ge 1 && $1 != -* ]] || usage
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(realpath -m "$1")
cache=$out.cache
shift
archs=()
while [[ $# -gt 0 && $1 != -- ]]; do
  nix_system "$1" > /dev/null
  archs+=("$1")
  shift
done
[[ ${#archs[@]} -gt 0 ]] || archs=("$(dpkg --print-architecture)")
shift $(($# > 0))

if [[ -e $out && ! -e $cache/made ]]; then
  echo "make.sh: $out is there already, and not of this script's making" >&2
  exit 1
fi

mkdir -p "$cache"
exec 9> "$cache/lock"
flock 9

want=$(digest "$here"/{make.sh,packages.list,resolve.awk} "$here"/set/*)" ${archs[*]}${*:+ -- $*}"
if [[ -d $out && $(cat "$cache/made" 2> /dev/null) == "$want" ]]; then
  echo "$out is up to date"
  exit
fi

awk -v names="$*" 'names == "" || $1 != "want"; END { if (names != "") print "want", names }' "$here/packages.list" > "$cache/packages.list"
for arch in "${archs[@]}"; do
  from=$(digest "$here"/{make.sh,resolve.awk} "$cache/packages.list")
  [[ $(cat "$cache/$arch/from" 2> /dev/null) != "$from" ]] || continue
  resolve "$arch"
  echo "$from" > "$cache/$arch/from"
done

: > "$cache/made"

rm -rf "$cache/new" "$cache/old"
mkdir "$cache/new"
cp "$here"/set/* "$cache/new/"
for arch in "${archs[@]}"; do cp -al --update "$cache/$arch/set/." "$cache/new/"; done
[[ ! -e $out ]] || mv -T "$out" "$cache/old"
mv -T "$cache/new" "$out"
echo "$want" > "$cache/made"
rm -rf "$cache/old"
echo "$out is made"
