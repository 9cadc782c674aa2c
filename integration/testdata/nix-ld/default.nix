# The demo set, with the C library as in nixpkgs: libraries in lib, lib64 a link to that, and a loader that searches no fixed place.
{
  # As for the demo set.
  system ? builtins.currentSystem,
  ...
}:
let
  demo = import ./demo.nix { inherit system; };

  # A package made by shell text, which finds words of busybox.
  package =
    name: script:
    derivation {
      inherit name system;
      builder = "${demo.busybox}/bin/busybox";
      args = [
        "sh"
        "-euc"
        "PATH=${demo.busybox}/bin; ${script}"
      ];
    };

in
demo
// {
  glibc = package "glibc-2.36" ''
    mkdir -p $out/lib
    cp -L ${demo.glibc}/lib/*/*.so* $out/lib
    rm $out/lib/libgcc_s.so.1
    loader=$(echo $out/lib/ld-linux-*)
    sed -i 's#/lib/#/no_/#g; s#/etc/ld.so.cache#/etc/no.so.cache#g' $loader
    chmod 555 $loader
    ln -s lib $out/lib64
  '';
  stdenv.cc.cc.lib = package "gcc-12-lib" ''
    mkdir -p $out/lib
    cp -L ${demo.stdenv.cc.cc.lib}/lib/*/libstdc++.so.6 ${demo.glibc}/lib/*/libgcc_s.so.1 $out/lib
  '';
  zlib = package "zlib-1" "mkdir -p $out/lib; cp -L ${demo.zlib}/lib/*/libz.so.1 $out/lib";
  nix-ld = package "nix-ld-2" ''
    mkdir -p $out/bin $out/libexec
    cp ${./nix-ld} $out/bin/nix-ld
    ln -s $out/bin/nix-ld $out/libexec/nix-ld
  '';
}
