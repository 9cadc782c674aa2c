# Packages that only a machine with the feature "far" can build.
{
  # The platform that builds and runs the packages.
  system ? builtins.currentSystem,
  # What a caller of nixpkgs may pass.
  ...
}:
let
  inherit (builtins) readFile;

  b = "${./bin}/busybox";

  package =
    name: script:
    derivation {
      name = "${name}-1.0";
      inherit system b;
      builder = b;
      args = [
        "sh"
        "-euc"
        script
      ];
      salt = readFile ./salt;
      requiredSystemFeatures = [ "far" ];
    }
    // {
      pname = name;
    };
in
rec {
  far = package "far" "$b mkdir -p $out/share; echo far > $out/share/far";
  fails = package "fails" "echo 'no such luck' >&2; exit 3";
  needy = package "needy" "$b cat ${fails}";
  # The machine has /signals; the build waits there until it is told to go on.
  waits = package "waits" ''
    echo > /signals/begun
    until [ -e /signals/go ]; do $b sleep 0.1; done
    $b mkdir -p $out/share
    echo waited > $out/share/waits
  '';
}
