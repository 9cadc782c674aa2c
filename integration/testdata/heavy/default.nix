# Packages of two megabytes each, which no store has built yet: the file salt differs in every copy of this set. A static busybox is put into bin.
{
  # The platform that builds the packages.
  system ? builtins.currentSystem,
  # What a caller of nixpkgs may pass.
  ...
}:
let
  inherit (builtins) genList listToAttrs readFile;

  # busybox looks at the name that it is called by.
  b = "${./bin}/busybox";

  # A package that shell text makes; $b is busybox.
  package =
    name: script:
    derivation {
      name = "${name}-1.0";
      inherit system b;
      builder = b;
      args = [
        "sh"
        "-euc"
        "$b mkdir -p $out/share; ${script}"
      ];
      salt = readFile ./salt;
    }
    // {
      pname = name;
    };

  # What a package needs while it is built and not afterwards.
  tool = package "tool" "echo ready >$out/share/word";
  library = package "library" "$b yes library | $b head -c 2000000 >$out/share/library";
in
listToAttrs (
  genList (n: rec {
    name = "heavy${toString n}";
    value = package name ''
      $b cat ${tool}/share/word
      $b yes ${name} | $b head -c 2000000 >$out/share/${name}
      echo ${library} >$out/share/uses
    '';
  }) 100
)
// {
  fails = package "fails" "exit 1";
}
