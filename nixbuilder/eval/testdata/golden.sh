#!/usr/bin/env bash
# Writes golden.json: what Nix itself says of some packages of set/, asked one by one and without this project's expressions.
#
# Usage: golden.sh
# Needs: nix-instantiate. The Nix version is in the result; store paths do not depend on it.
set -euo pipefail
cd "$(dirname "$0")"

# shellcheck disable=SC2016 # the expression's own dollar signs
expression='
  let
    set = import ./set { system = "x86_64-linux"; };
    package = drv: {
      inherit (drv) drvPath;
      outputs = builtins.listToAttrs (map (name: { inherit name; value = drv.${name}.outPath; }) (drv.outputs or [ "out" ]));
    };
  in
  {
    nix = builtins.nixVersion;
    packages = builtins.mapAttrs (_: package) {
      inherit (set) hello several needy careless metaless;
      "1password" = set._1password;
      "haskellpackages.hlint" = set.haskellPackages.HLint;
    };
  }'
NIX_STATE_DIR=/nonexistent nix-instantiate --eval --strict --json --store dummy:// --expr "$expression" > golden.json.new
mv golden.json.new golden.json
