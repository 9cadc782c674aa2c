# Builds the bootstrap tools: patchelf, startable before there is a C library in the store.
#
# Run by busybox's sh as the builder of a derivation. Needs $debs (.deb files: the C library, the C++
# library, patchelf) and $out.
#
# shellcheck shell=dash disable=SC2123,SC2154 # no PATH is wanted, and Nix sets the variables
set -eu

# Its own applets are all that busybox's shell finds.
PATH=

mkdir root "$out"
for deb in $debs; do dpkg-deb -x "$deb" root; done

find root/lib root/usr/lib -name '*.so*' ! -type d -exec cp -P {} "$out/" \;
cp root/usr/bin/patchelf "$out/patchelf.bin"

loader=$(cd "$out" && echo ld-linux*)
cat > "$out/patchelf" <<SCRIPT
exec $out/$loader --library-path $out $out/patchelf.bin "\$@"
SCRIPT
