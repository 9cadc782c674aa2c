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

  refusal =
    { name, meta }:
    if isUnfree (meta.license or [ ]) && !allowUnfree && !allowUnfreePredicate name then
      {
        reason = "unfree";
        errormsg = "has an unfree license (‘${meta.license.shortName or "unfree"}’)";
        remediation = "a) To temporarily allow unfree packages, you can use an environment variable\n   for a single invocation of the nix tools.";
      }
    else if meta.broken or false && !allowBroken then
      {
        reason = "broken";
        errormsg = "is marked as broken";
        remediation = "a) To temporarily allow broken packages, you can use an environment variable\n   for a single invocation of the nix tools.";
      }
    else if meta.knownVulnerabilities or [ ] != [ ] && !lib.elem name permittedInsecurePackages then
      {
        reason = "insecure";
        errormsg = "is marked as insecure";
        remediation = "Known issues:\n${toString meta.knownVulnerabilities}";
      }
    else if meta ? platforms && !lib.elem system meta.platforms && !allowUnsupportedSystem then
      {
        reason = "unsupported";
        errormsg = "is not available on the requested hostPlatform:\n  hostPlatform.system = \"${system}\"";
        remediation = "";
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
        || throw "Package ‘${name}’ in ${positionOf meta} ${refused.errormsg}, refusing to evaluate.\n\n${refused.remediation}\n";
    };
}
