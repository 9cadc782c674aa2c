# Refuses packages for what their meta says, in the words of nixpkgs.
{
  lib,
  config,
  # The platform that packages have to run on.
  system,
}:
let
  inherit (builtins)
    any
    concatStringsSep
    getEnv
    isList
    unsafeGetAttrPos
    ;

  allowUnfree = config.allowUnfree or false || getEnv "NIXPKGS_ALLOW_UNFREE" == "1";
  allowBroken = config.allowBroken or false || getEnv "NIXPKGS_ALLOW_BROKEN" == "1";
  allowUnsupportedSystem = config.allowUnsupportedSystem or false;
  permittedInsecurePackages = config.permittedInsecurePackages or [ ];
  allowUnfreePredicate = config.allowUnfreePredicate or (package: false);

  isUnfree =
    licenses: any (license: !(license.free or true)) (if isList licenses then licenses else [ licenses ]);

  positionOf =
    meta:
    let
      position = unsafeGetAttrPos "description" meta;
    in
    if position == null then "«unknown-file»" else "${position.file}:${toString position.line}";

  allowing = option: kind: ''
    a) To temporarily allow ${kind}, you can use an environment variable
       for a single invocation of the nix tools.

         $ export NIXPKGS_ALLOW_UNFREE=1

    b) For `nixos-rebuild` you can set
      { nixpkgs.config.${option}; }
    in configuration.nix to override this.
  '';

  refusal =
    { name, meta }:
    if isUnfree (meta.license or [ ]) && !allowUnfree && !allowUnfreePredicate name then
      {
        reason = "unfree";
        errormsg = "has an unfree license (‘${meta.license.shortName or "unfree"}’)";
        remediation = allowing "allowUnfree = true" "unfree packages";
      }
    else if meta.broken or false && !allowBroken then
      {
        reason = "broken";
        errormsg = "has problems:\n- broken: This package is broken.\n";
        remediation = "See also https://nixos.org/manual/nixpkgs/unstable#sec-problems\nTo allow evaluation regardless, use:\n\n  {\n    problems.handlers = {\n      ${name}.broken = \"warn\";\n    };\n  }";
      }
    else if meta.knownVulnerabilities or [ ] != [ ] && !lib.elem name permittedInsecurePackages then
      {
        reason = "insecure";
        errormsg = "is marked as insecure";
        remediation = "\nKnown issues:\n - ${concatStringsSep "\n - " meta.knownVulnerabilities}\n\nYou can install it anyway by allowing this package, using the\nfollowing methods:\n\n${allowing "permittedInsecurePackages = [ \"${name}\" ]" "all insecure packages"}";
      }
    else if meta ? platforms && !lib.elem system meta.platforms && !allowUnsupportedSystem then
      {
        reason = "unsupported";
        errormsg = "is not available on the requested hostPlatform:\n  hostPlatform.system = \"${system}\"\n  package.meta.platforms = [\n    \"${concatStringsSep "\"\n    \"" meta.platforms}\"\n  ]\n";
        remediation = allowing "allowUnsupportedSystem = true" "packages that are unsupported for this system";
      }
    else
      null;
in
{
  assertValidity =
    { name, meta }@package:
    let
      refused = refusal package;
    in
    {
      meta = {
        available = refused == null;
        broken = meta.broken or false;
        insecure = meta.knownVulnerabilities or [ ] != [ ];
        unfree = isUnfree (meta.license or [ ]);
        position = positionOf meta;
        outputsToInstall = [ "out" ];
      }
      // meta;
      handled =
        refused == null
        || throw "Refusing to evaluate package '${name}' in ${positionOf meta} because it ${refused.errormsg}\n${refused.remediation}\n";
    };
}
