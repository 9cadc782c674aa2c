# Packages that are content-addressed, or made of such. The file salt differs in every copy of this set. A static busybox is put into bin.
{
  # The platform that builds the packages.
  system ? builtins.currentSystem,
  # What a caller of nixpkgs may pass.
  ...
}:
let
  inherit (builtins) readFile;

  # busybox looks at the name that it is called by.
  b = "${./bin}/busybox";

  # A derivation that shell text makes; $b is busybox.
  package =
    name: attrs: script:
    derivation (
      {
        inherit name system b;
        builder = b;
        args = [
          "sh"
          "-euc"
          script
        ];
        salt = readFile ./salt;
      }
      // attrs
    );
  floats = {
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
  says = text: "$b mkdir -p $out/share; echo ${text} > $out/share/said";
in
rec {
  plain = package "plain" { } (says "plain");
  floating = package "floating" floats (says "floating $salt");
  alone = package "alone" floats (says "alone");
  # It floats, too, and so does what is made of it.
  several =
    package "several"
      (
        floats
        // {
          outputs = [
            "out"
            "dev"
          ];
        }
      )
      ''
        $b mkdir -p $out/share $dev/share
        echo ${floating} $dev > $out/share/several
        echo dev > $dev/share/dev
      '';
  uses = package "uses" { } "$b mkdir -p $out/share; echo ${floating} ${several} > $out/share/uses";

  fails = package "fails" floats "echo no such luck; exit 3";
  # Nix builds it as another derivation, as what it is made of is known by then.
  usesFails = package "usesfails" { } "echo compiling ${floating}; exit 4";
  # What it is made of fails.
  usesFailing = package "usesfailing" { } "echo ${fails}";
  # Three million bytes.
  bulky = package "bulky" floats "$b mkdir -p $out; $b head -c 3000000 /dev/zero > $out/data";
  impure = package "impure" { __impure = true; } (says "impure");
  # Evaluation has to read what does not float.
  generated = package "generated" { } (says (readFile "${plain}/share/said"));
  # Evaluation has to read what floats.
  reads = package "reads" { } (says (readFile "${floating}/share/said"));
}
