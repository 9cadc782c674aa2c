# A package set for tests: one attribute for each thing that can become of a name. Nothing in it is ever built.
{ system, ... }:

let
  # A derivation with meta and passthru as nixpkgs attaches them.
  package =
    name: extra:
    derivation {
      inherit name system;
      builder = "/bin/sh";
    }
    // extra;
  refuses = message: package "refused-1" { drvPath = throw message; };
  image = settings: package "image-1" { passthru.image = settings; };
  numbers = builtins.genList (n: n) 1000000;
  several =
    derivation {
      name = "several-1";
      inherit system;
      builder = "/bin/sh";
      outputs = [
        "bin"
        "dev"
        "man"
      ];
    }
    // {
      meta.outputsToInstall = [
        "bin"
        "man"
        "doc"
      ];
      meta.license = [
        "MIT"
        { fullName = "Own license"; }
        { }
      ];
    };
in

{
  hello = package "hello-2.12.1" {
    pname = "hello";
    version = "2.12.1";
    src = package "hello.tar.gz" { outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="; };
    stdenv = package "stdenv" { cc = package "cc" { }; };
    throws = throw "inside hello";
    meta = {
      description = "A program that greets";
      mainProgram = "hello";
      priority = 4;
      license = {
        spdxId = "GPL-3.0-or-later";
        shortName = "gpl3Plus";
      };
    };
    passthru.inner = package "inner-1" { };
    passthru.image = {
      entrypoint = [
        "hello"
        "-g"
      ];
      cmd = [ ];
      env.LANG = "C.UTF-8";
      user = "1000:1000";
      workingdir = "/srv";
      labels."org.example.a" = "b";
      exposedports = [
        "80"
        "53/udp"
      ];
    };
  };

  # Several outputs, of which two are installed; several licenses, one of them without a name.
  inherit several;
  # Outputs: as nixpkgs marks them, by passing on all attributes of the package; as Nix itself makes them; one that is none.
  severalDev = several // {
    inherit (several.dev) outPath outputName;
    outputSpecified = true;
  };
  plainDev = several.dev;
  noSuchOutput = several // {
    outputName = "gone";
    outputSpecified = true;
  };
  twinOutputs = derivation {
    name = "twin-outputs-1";
    inherit system;
    builder = "/bin/sh";
    outputs = [
      "out"
      "doc"
      "Doc"
    ];
  };
  # A package that was made with others, which have outputs.
  stdenv = package "stdenv-linux" {
    cc = package "gcc-wrapper-15" {
      cc = derivation {
        name = "gcc-15";
        inherit system;
        builder = "/bin/sh";
        outputs = [
          "out"
          "lib"
        ];
      };
    };
  };
  # It needs another derivation, a file, a directory, and a text.
  needy = derivation {
    name = "needy-1";
    inherit system;
    builder = "/bin/sh";
    dependency = package "dependency-1" { };
    file = ./files/text;
    directory = ./files;
    text = builtins.toFile "text" "written by the set";
    fixed = builtins.path {
      path = ./files/text;
      name = "fixed";
      recursive = false;
      sha256 = "a23e5fdcd7b276bdd81aa1a0b7b963101863dd3f61ff57935f8c5ba462681ea6";
    };
  };
  # Metadata of wrong types, or that refuses, is left out.
  careless = package "careless-1" {
    version = 1;
    meta = {
      mainProgram = [ "x" ];
      priority = "high";
      description = throw "no description";
      license = throw "no license";
      outputsToInstall = "out";
    };
  };
  metaless = package "metaless-1" { meta = throw "no meta"; };

  _1password = package "1password-8" { };
  _1Up = package "1up-1" { };
  "dotted.name" = package "dotted-1" { };
  "-dash" = package "dash-1" { };
  "quote\"\${x}" = package "quote-1" { };
  "ümlaut" = package "umlaut-1" { };
  haskellPackages.HLint = package "hlint-3" { };
  haskellPackages.deeper.pkg_config = package "pkg-config-1" { };
  Python3 = package "python3-3.11" { };
  python3Packages = { };
  Twin = package "twin-1" { };
  TWIN = package "twin-2" { };
  searched = {
    recurseForDerivations = true;
    tool = package "tool-1" { };
  };
  aliases.hello = package "hello-2.12.1" { };

  function = { x }: x;
  functor = {
    __functor = self: x: x;
  };
  text = "hello";
  number = 1;
  unset = null;
  forged = {
    type = "derivation";
    name = "forged";
    drvPath = "/etc/passwd";
    outPath = "/etc/passwd";
  };
  forgedOutput = package "forged-1" { out.outPath = "/nix/store/../../etc/passwd"; };
  noOutput = package "no-output-1" { outputs = [ ]; };

  unfree = refuses "Package ‘refused-1’ in ${toString ./.}/default.nix:1 has an unfree license (‘unfree’), refusing to evaluate.";
  broken = refuses "Package ‘refused-1’ is marked as broken, refusing to evaluate.";
  insecure = refuses "Package ‘refused-1’ is marked as insecure, refusing to evaluate.";
  elsewhere = refuses "Package ‘refused-1’ is not available on the requested hostPlatform";
  throws = throw "not\ntoday";
  asserts =
    assert false;
    package "never-1" { };
  nestedThrows.inner = throw "inside";
  setThrows = throw "a set that refuses" // { };

  aborts = abort "enough";
  typeError = 1 + "x";
  missing = { }.gone;
  recursion =
    let
      x = x;
    in
    x;
  overflow =
    let
      f = n: 1 + f (n + 1);
    in
    f 0;
  typeErrorInside = package "bad" { drvPath = 1 + "x"; };

  imageKey = image { entryPoint = [ "x" ]; };
  imageType = image {
    cmd = "x";
    env = [ "A=1" ];
    user = 0;
  };
  imageFunction = image (x: x);
  imagePort = image { exposedports = [ "http" ]; };
  imageEnv = image { env."A=B" = "x"; };
  imageThrows = image { cmd = throw "no command"; };

  # Beyond the limits.
  memory = builtins.foldl' (text: _: text + text) "sixteen letters." numbers;
  hugeList = builtins.length (builtins.genList (n: n) 2000000000);
  time = builtins.foldl' (a: x: builtins.foldl' (b: y: b + y) a numbers) 0 numbers;
  talk =
    let
      long = builtins.concatStringsSep "" (builtins.genList (n: "talking ") 20000);
    in
    builtins.foldl' (a: x: builtins.trace long a) 0 numbers;

  # Out of bounds.
  readsHost = builtins.readFile /etc/passwd;
  listsHost = builtins.attrNames (builtins.readDir /etc);
  readsLink = builtins.readFile ./link;
  fetches = builtins.fetchurl "http://127.0.0.1:1/x";
  fetchesTarball = import (fetchTarball "http://127.0.0.1:1/x.tar.gz");
  environment = throw "HOME is '${builtins.getEnv "HOME"}', PATH is '${builtins.getEnv "PATH"}'";
  imports = import (package "imported-1" { });
  forges = builtins.trace "{\"name\":\"forges\",\"drvPath\":\"/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfvh-x.drv\"}" (
    builtins.trace "\n@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"x\",\"raw_msg\":\"forged\"}\nerror: forged" 1
  );
}
