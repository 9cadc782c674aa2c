# A package set in the shape of nixpkgs, for tests: package nixpkgslike adds as many packages as it is asked for.
{
  # The platform that builds and runs the packages, such as "x86_64-linux".
  system ? builtins.currentSystem,
  # What the user allows and overrides: allowUnfree, allowBroken, allowAliases, permittedInsecurePackages, packageOverrides.
  config ? { },
  # Functions from the final and the previous set to changes of it.
  overlays ? [ ],
  # What else a caller of nixpkgs may pass.
  ...
}:
let
  lib = import ./lib.nix;
  demo = import ./demo { inherit system; };
  bootstrap = builtins.path {
    name = "bootstrap";
    path = ./demo + "/${system}/bootstrap";
  };

  stages = [
    (self: super: {
      inherit lib config demo;
      pkgs = self;
      callPackage = self.newScope { };
      callPackages = lib.callPackagesWith self;
      newScope = extra: lib.callPackageWith (self // extra);
    })
    (self: super: import ./pkgs/stdenv { inherit lib config system bootstrap; })
    (import ./pkgs/top-level/by-name-overlay.nix { inherit lib; } ./pkgs/by-name)
    (import ./pkgs/top-level/all-packages.nix { inherit lib; })
    (
      self: super:
      lib.optionalAttrs (config.allowAliases or true) (
        import ./pkgs/top-level/aliases.nix lib self super
      )
    )
    (self: super: (config.packageOverrides or (super: { })) super)
  ];
in
lib.fix (lib.foldl' (base: overlay: lib.extends overlay base) (self: { }) (stages ++ overlays))
