# Packages of several outputs, as nixpkgs makes them. A static busybox is put into bin.
{
  # The platform that builds the packages.
  system ? builtins.currentSystem,
  # What a caller of nixpkgs may pass.
  ...
}:
let
  inherit (builtins) head listToAttrs;

  # busybox looks at the name that it is called by.
  b = "${./bin}/busybox";

  # A derivation whose every output has a file of the output's name. The output bin has a program, too.
  build =
    name: outputs:
    derivation {
      inherit name system outputs;
      builder = b;
      args = [
        "sh"
        "-euc"
        ''
          for output in ${toString outputs}; do
            eval "path=\$$output"
            ${b} mkdir -p $path/share
            echo $output > $path/share/$output
          done
          if [ -n "''${bin-}" ]; then
            ${b} mkdir $bin/bin
            ${b} cp ${b} $bin/bin/tool
          fi
        ''
      ];
    };

  # What nixpkgs makes of it: each output has all attributes of the package, and says whether it was chosen.
  extended =
    name: outputs: passthru:
    let
      drv = build name outputs;
      common = passthru // listToAttrs each // { inherit outputs; };
      each = map (output: {
        name = output;
        value = common // {
          inherit (drv.${output})
            drvPath
            name
            outPath
            outputName
            system
            type
            ;
          outputSpecified = true;
        };
      }) outputs;
    in
    (head each).value // { outputSpecified = false; };

  tool = extended "tool-1.0" [ "bin" "dev" "out" "lib" ] {
    pname = "tool";
    meta.outputsToInstall = [ "bin" ];
  };
  # lib.getOutput of nixpkgs.
  getOutput = output: package: if package.outputSpecified or false then package else package.${output};
in
{
  inherit tool;
  toolDev = tool.dev;
  toolLib = getOutput "lib" tool;
  # What was chosen once stays that.
  toolStillDev = getOutput "lib" tool.dev;
  plainDev = (build "plain" [ "out" "dev" ]).dev;
  stdenv = extended "stdenv" [ "out" ] {
    cc = extended "wrapper-2.0" [ "out" ] {
      cc = extended "compiler-2.0" [ "out" "lib" ] { };
    };
  };
}
