# A package set that has all kinds of things a name may reach that are not to be built. The text in the file salt is part of
# the name of every derivation, so that a test can tell whether the store has any of them.
{
  # The platform that builds the packages.
  system ? builtins.currentSystem,
  # What a caller of nixpkgs may pass.
  ...
}:
let
  salt = builtins.readFile ./salt;

  # busybox looks at the name that it is called by.
  b = "${./bin}/busybox";

  # A derivation whose output is named by the salt.
  make =
    name:
    derivation {
      name = "${name}-${salt}";
      inherit system b;
      builder = b;
      args = [
        "sh"
        "-euc"
        "$b mkdir -p $out/bin; $b cp $b $out/bin/hello"
      ];
    };
in
{
  hello = make "hello" // {
    src = make "source";
    stdenv = make "stdenv";
    override = _: make "overridden";
    passthru.tests.run = make "tests";
  };

  mkDemo = make;
  callable = {
    __functor = _: make;
    x = "a string";
  };
  lib = {
    id = x: x;
    text = "a string";
    nested = make;
  };
  inherit builtins;
  list = [ (make "listed") ];
  outPath = "/etc/passwd";
  fake = {
    type = "derivation";
    name = "fake";
    outPath = "/etc/passwd";
    drvPath = "/etc/passwd";
    inherit system;
  };
  climbing = {
    type = "derivation";
    name = "climbing";
    outPath = "/nix/store/../../etc/passwd";
    drvPath = "/nix/store/../../etc/passwd.drv";
    inherit system;
  };
}
