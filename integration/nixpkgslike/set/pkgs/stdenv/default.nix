# The standard environment: a compiler that is built in stages, each with the one before, and mkDerivation. What it builds
# is as small as can be; the derivations and what they depend on are what counts.
{
  lib,
  config,
  system,
  # A store path with a static busybox.
  bootstrap,
}:
let
  inherit (builtins)
    concatLists
    isFunction
    map
    removeAttrs
    ;

  checkMeta = import ./check-meta.nix { inherit lib config system; };

  bare =
    attrs:
    derivation (
      {
        inherit system bootstrap;
        builder = "${bootstrap}/busybox";
        args = [
          "sh"
          "-eu"
          ./builder.sh
        ];
      }
      // attrs
    );

  tools = [
    "binutils"
    "bzip2"
    "coreutils"
    "diffutils"
    "findutils"
    "gawk"
    "gcc"
    "glibc"
    "gnumake"
    "gnused"
    "gzip"
    "patchelf"
  ];

  # The tools of a stage, each built by those of the stage before.
  stage =
    n:
    let
      previous = if n == 0 then [ ] else stages.${toString (n - 1)};
    in
    map (
      tool:
      bare {
        name = "bootstrap-stage${toString n}-${tool}";
        pname = tool;
        version = toString n;
        nativeBuildInputs = previous;
      }
    ) tools;
  stages = lib.genAttrs [ "0" "1" "2" "3" "4" ] (n: stage (builtins.fromJSON n));

  stdenv = bare {
    name = "stdenv-linux";
    pname = "stdenv";
    version = "1";
    initialPath = stages."4";
  }
  // {
    inherit mkDerivation;
    hostPlatform = platform;
    buildPlatform = platform;
    cc = "gcc";
  };
  platform = {
    inherit system;
    isLinux = lib.elem system lib.platforms.linux;
    isDarwin = lib.elem system lib.platforms.darwin;
  };

  mkDerivation =
    fnOrAttrs:
    if isFunction fnOrAttrs then
      makeDerivationExtensible fnOrAttrs
    else
      makeDerivationExtensible (_: fnOrAttrs);
  makeDerivationExtensible =
    rattrs:
    let
      args = rattrs (args // { inherit finalPackage overrideAttrs; });
      overrideAttrs =
        f0:
        makeDerivationExtensible (
          self:
          let
            super = rattrs self;
            f = if isFunction f0 then f0 else _: _: f0;
            value = f self super;
          in
          super // (if isFunction value then f0 super else value)
        );
      finalPackage = makeDerivation overrideAttrs args;
    in
    finalPackage;
  makeDerivation =
    overrideAttrs: attrs:
    let
      name = attrs.name or "${attrs.pname}-${attrs.version}";
      dependencies =
        kind: map lib.getDev (lib.concatMap (d: if d == null then [ ] else [ d ]) (attrs.${kind} or [ ]));
      validity = checkMeta.assertValidity {
        inherit name;
        meta = attrs.meta or { };
      };
      derivationArg =
        removeAttrs attrs [
          "meta"
          "passthru"
        ]
        // {
          inherit name stdenv;
          __ignoreNulls = true;
          nativeBuildInputs = dependencies "nativeBuildInputs";
          buildInputs = dependencies "buildInputs";
          propagatedBuildInputs = dependencies "propagatedBuildInputs";
          strictDeps = attrs.strictDeps or false;
          doCheck = attrs.doCheck or false;
          configureFlags = attrs.configureFlags or [ ] ++ [ "--host=${system}" ];
          patches = attrs.patches or [ ];
          outputs = attrs.outputs or [ "out" ];
        };
    in
    lib.extendDerivation validity.handled (
      {
        inherit overrideAttrs;
        inherit (validity) meta;
        passthru = attrs.passthru or { };
        version = attrs.version or null;
      }
      // (attrs.passthru or { })
    ) (bare derivationArg);

  # Every download is the same few bytes.
  fetchurl =
    {
      url,
      # The file's SHA-256, in hexadecimal digits.
      sha256,
    }:
    bare {
      name = baseNameOf url;
      inherit url;
      args = [
        "sh"
        "-eu"
        ./fetch.sh
      ];
      nativeBuildInputs = stages."0";
      outputHash = sha256;
      outputHashAlgo = "sha256";
      outputHashMode = "flat";
      preferLocalBuild = true;
    };
in
{
  inherit
    stdenv
    fetchurl
    bootstrap
    ;
  buildPackages = concatLists (builtins.attrValues stages);
}
