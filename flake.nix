{
  description = "Container registry that builds images from Nix packages when they are pulled";

  # Any nixpkgs with Go 1.26. The lock file is the user's, and none is here: docs/install/nixos.md.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { nixpkgs, ... }:
    {
      packages = nixpkgs.lib.genAttrs [ "aarch64-linux" "x86_64-linux" ] (
        system:
        let
          made = import ./default.nix { pkgs = nixpkgs.legacyPackages.${system}; };
        in
        made // { default = made.nixery-registry; }
      );

      nixosModules.default = import ./deploy/nixos/module.nix;
    };
}
