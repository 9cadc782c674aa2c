#!/usr/bin/env bash
# Puts the Nix of a Debian suite into a directory, beside the one that is installed: DIR/bin has its programs, which bring their own loader and
# libraries and so run on any Debian. Does nothing where they are already. Takes 20 s, 40 MB of downloads, and 85 MB in the end.
#
# Two Nixes share neither a store nor build users: each ends what runs as such a user. scripts/with-nix.sh keeps them apart.
#
# Usage: scripts/get-nix.sh SUITE DIR   (such as trixie build/nix-trixie)
# Needs: apt with a source of Debian's packages, patchelf. Builds in its sandbox need /usr/bin/bash-static.
set -euo pipefail

suite=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
[ ! -x "$dir/bin/nix" ] || exit 0
# Somebody else may be at it.
exec 9>"$dir/.lock"
flock 9
[ ! -x "$dir/bin/nix" ] || exit 0
echo "get-nix.sh: fetching the Nix of Debian $suite"

work=$(mktemp -d "$dir/.get-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,root,lib,bin}
: >"$work/state/status" # nothing is installed, so all that Nix needs is fetched
# shellcheck disable=SC2016 # apt's own placeholder
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
options=(
  -qq
  -o Dir::State="$work/state" -o Dir::State::status="$work/state/status" -o Dir::Cache="$work/cache"
  -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
  -o APT::Sandbox::User=root -o APT::Update::Post-Invoke= -o Acquire::Languages=none -o Debug::NoLocking=1
)
apt-get "${options[@]}" update
apt-get "${options[@]}" install -y --no-install-recommends --download-only nix-bin >/dev/null
for deb in "$work"/cache/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --keep-directory-symlink \
    --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale
done

find "$work/root" \( -name 'lib*.so' -o -name 'lib*.so.*' \) -exec cp -an {} "$work/lib/" \;
loader=$(find "$work/root" -name 'ld-linux-*.so.*' -print -quit)
cp -L --remove-destination "$loader" "$work/lib/"
cp "$work/root/usr/bin/nix" "$work/bin/"
patchelf --set-interpreter "$dir/lib/${loader##*/}" --force-rpath --set-rpath "$dir/lib" "$work/bin/nix"
for link in "$work"/root/usr/bin/nix-*; do
  ln -s nix "$work/bin/${link##*/}"
done

# The programs come last, so that a half of this is never taken for the whole.
rm -rf "${dir:?}/lib"
mv "$work/lib" "$dir/"
version=$("$work/bin/nix" --version)
mv "$work/bin" "$dir/"
echo "get-nix.sh: $version is in $dir"
