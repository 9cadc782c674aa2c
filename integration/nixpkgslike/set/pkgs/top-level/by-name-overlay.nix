# Finds packages by the names of their directories: pkgs/by-name/he/hello/package.nix is hello.
{ lib }:
baseDirectory:
let
  inherit (builtins) attrValues mapAttrs readDir;

  namesForShard =
    shard: type:
    if type == "directory" then
      mapAttrs (name: _: baseDirectory + "/${shard}/${name}/package.nix") (
        readDir (baseDirectory + "/${shard}")
      )
    else
      { };
  packageFiles = lib.mergeAttrsList (attrValues (mapAttrs namesForShard (readDir baseDirectory)));
in
self: super:
{
  _internalCallByNamePackageFile = file: self.callPackage file { };
}
// mapAttrs (name: file: self._internalCallByNamePackageFile file) packageFiles
