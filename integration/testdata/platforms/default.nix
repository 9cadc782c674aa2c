# Packages that are built here for any platform, as a compiler for another platform would.
{
  # The platform that packages run on.
  system ? builtins.currentSystem,
  # What a caller of nixpkgs may pass.
  ...
}:
let
  inherit (builtins) currentSystem readFile;

  b = "${./bin}/busybox";

  package =
    name: builder:
    derivation {
      name = "${name}-1.0";
      system = builder;
      inherit b;
      builder = b;
      args = [
        "sh"
        "-euc"
        "$b mkdir -p $out/share; echo ${system} > $out/share/${name}"
      ];
      salt = readFile ./salt;
    }
    // {
      pname = name;
      stdenv.hostPlatform = { inherit system; };
    };
in
{
  both = package "both" currentSystem;
  one = if system == "x86_64-linux" then package "one" currentSystem else throw "one is for x86_64-linux alone";
  arm = if system == "aarch64-linux" then package "arm" currentSystem else throw "arm is for aarch64-linux alone";
  # Has to be built on the platform that it runs on.
  native = package "native" system;
}
