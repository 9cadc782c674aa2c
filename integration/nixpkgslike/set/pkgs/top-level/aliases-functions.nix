# What is done to each alias: it must not hide a package, nor be listed with them.
lib: self: super:
let
  inherit (builtins) hasAttr mapAttrs removeAttrs;

  removeRecurseForDerivations =
    alias: if alias.recurseForDerivations or false then removeAttrs alias [ "recurseForDerivations" ] else alias;
  checkInPkgs =
    name: alias: if hasAttr name super then throw "Alias ${name} is still in all-packages.nix" else alias;
in
mapAttrs (name: alias: removeRecurseForDerivations (checkInPkgs name alias))
