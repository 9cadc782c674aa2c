# Packages that fail in every way that Nix has, and some that do not. What each version of Nix says of them is in the files beside this one, and is to be
# told to clients in the same way. A static busybox is put into bin; the file salt differs in every copy of this set.
{
  # The platform that builds the packages.
  system ? builtins.currentSystem,
  # What a caller of nixpkgs may pass.
  ...
}:
let
  # busybox looks at the name that it is called by.
  b = "${./bin}/busybox";

  # A package that shell text makes, which may set any attribute of the derivation; $b is busybox.
  make =
    name: script: attributes:
    derivation (
      {
        name = "${name}-1";
        inherit system b;
        builder = b;
        args = [
          "sh"
          "-uc"
          script
        ];
        salt = builtins.readFile ./salt;
      }
      // attributes
    );
  # One whose builder only needs another package.
  uses = package: make "uses-${package.name}" "echo ${package} > $out" { };
  # One whose content has a hash, which is not that of what it makes.
  fixed =
    name: script: attributes:
    make name script (
      {
        outputHashMode = "flat";
        outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
      }
      // attributes
    );

  # One with attributes of other types, as checks of outputs need.
  structuredly =
    name: script: attributes:
    make name ''
      out=$(${b} sed -n 's/.*"out":"\([^"]*\)".*/\1/p' .attrs.json)
      ${script}
    '' ({ __structuredAttrs = true; } // attributes);

  build = rec {
    ok = make "ok" "$b mkdir -p $out/bin; echo ok > $out/bin/ok" { };
    two = make "two" "$b mkdir $out $dev; echo $dev > $out/two; echo h > $dev/two.h" {
      outputs = [
        "out"
        "dev"
      ];
    };
    structured = structuredly "structured" "${b} mkdir $out" { };
    image = make "image" "$b mkdir $out" { } // {
      passthru.image.env.A = "b";
    };

    failing = make "failing" "echo compiling; echo no such luck >&2; exit 3" { };
    noisy = make "noisy" "for n in $($b seq 30); do echo line $n; done; exit 1" { };
    dependent = uses failing;
    deeper = uses dependent;
    beside = make "beside" "echo ${failing} ${slow} > $out" { };
    slow = make "slow" "echo began; $b sleep 1000" { };
    slow-dependency = uses slow;
    no-output = make "no-output" "echo done" { };
    no-output-dependency = uses no-output;
    cycle = make "cycle" "echo $dev > $out; echo $out > $dev" {
      outputs = [
        "out"
        "dev"
      ];
    };
    cycle-dependency = uses cycle;
    self-cycle = make "self" "echo $out > $out" { allowedReferences = [ ]; };
    forbidden = make "forbidden" "echo ${ok} > $out" { disallowedReferences = [ ok ]; };
    mismatch = fixed "mismatch" "echo x > $out" { };
    mismatch-dependency = uses mismatch;
    fetcher = fixed "fetcher" "echo could not connect; exit 7" { };
    fetcher-dependency = uses fetcher;
    builtin-fetcher = derivation {
      name = "builtin-fetcher-1";
      system = "builtin";
      builder = "builtin:fetchurl";
      url = "http://127.0.0.1:1/file";
      outputHashMode = "flat";
      outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    };
    builtin-fetcher-dependency = uses builtin-fetcher;
    other-machine = make "other-machine" "echo > $out" {
      system = "riscv64-linux";
    };
    other-machine-dependency = uses other-machine;
    features = make "features" "echo > $out" { requiredSystemFeatures = [ "warp" ]; };
    features-dependency = uses features;
    no-builder = make "no-builder" "" { builder = "/nowhere/sh"; };
    no-builder-dependency = uses no-builder;
    bad-output = make "bad-output" "$b mknod $out p" { };
    bad-output-dependency = uses bad-output;

    # What can be built, and not be put into an image.
    whiteout = make "whiteout" "$b mkdir -p $out/bin; echo > $out/bin/.wh.ok" { };
    whiteout-directory = make "whiteout-directory" "$b mkdir -p $out/share/.wh..wh..opq" { };
    whiteout-dependency = make "uses-whiteout" "$b mkdir $out; $b ln -s ${whiteout} $out/link" { };

    # What asks for more than a sandbox gives.
    unconfined = make "unconfined" "echo > $out" { __noChroot = true; };
    unconfined-dependency = uses unconfined;
    impure-host = make "impure-host" "echo > $out" { __impureHostDeps = [ "/etc" ]; };
    impure-host-dependency = uses impure-host;
    odd-graph = make "odd-graph" "echo > $out" { exportReferencesGraph = [ "graph" ]; };
    graph-name = make "graph-name" "echo > $out" {
      exportReferencesGraph = [
        "../graph"
        ok
      ];
    };
    graph-outside = make "graph-outside" "echo > $out" {
      exportReferencesGraph = [
        "graph"
        "/nix/store/00000000000000000000000000000000-outside"
      ];
    };
    graph-nowhere = make "graph-nowhere" "echo > $out" {
      exportReferencesGraph = [
        "graph"
        "/etc/passwd"
      ];
    };

    # What something else than its builder ends. Processes of a sandbox can't end its first one.
    killed = make "killed" "echo began; $b sh -c 'kill -KILL $$'; exit $?" { };
    killed-dependency = uses killed;
    killed-fetcher = fixed "killed-fetcher" "$b sh -c 'kill -KILL $$'; exit $?" { };
    terminated = make "terminated" "$b sh -c 'kill -TERM $$'; exit $?" { };
    crashed = make "crashed" "$b sh -c 'kill -SEGV $$'; exit $?" { };

    # Outputs that Nix rejects.
    too-large = structuredly "too-large" "echo too much > $out" { outputChecks.out.maxSize = 10; };
    too-large-closure = structuredly "too-large-closure" "echo ${ok} >$out" { outputChecks.out.maxClosureSize = 10; };
    no-reference = structuredly "no-reference" "echo ${ok} >$out" { outputChecks.out.allowedRequisites = [ ]; };
    odd-reference = make "odd-reference" "echo > $out" { allowedReferences = [ "nowhere" ]; };
    executable = fixed "executable" "echo x > $out; $b chmod +x $out" { };
    directory = fixed "directory" "$b mkdir $out" { };
    writable = make "writable" "$b mkdir $out; echo > $out/file; $b chmod 666 $out/file" { };
  };

  evaluation = {
    throws = throw "this package was removed: use ok";
    throws-letters = throw "größe „x“ 🙂";
    throws-long = throw (builtins.concatStringsSep " " (builtins.genList toString 3000));
    aborts = abort "gone";
    asserts = assert 1 == 2; build.ok;
    recursion =
      let
        x = x;
      in
      x;
    endless =
      let
        f = n: 1 + f (n + 1);
      in
      f 0;
    type-error = make "te" (1 + "a") { };
    missing-attribute = build.ok.nothing.here;
    call-error = (x: x) 1 2;
    argument-error = ({ a }: a) { b = 1; };
    undefined = import ./undefined.nix;
    syntax = import ./broken.nix;
    no-file = import ./none.nix;
    reads-host = builtins.readFile /etc/passwd;
    reads-directory = builtins.readDir /etc;
    reads-environment = make "env-${builtins.getEnv "HOME"}x" "echo > $out" { };
    bad-name = make "bad name" "echo > $out" { };
    fetch-url = import (builtins.fetchurl "http://127.0.0.1:1/x.nix");
    fetch-tarball = import (builtins.fetchTarball "http://127.0.0.1:1/x.tar.gz");
    fetch-git = import (
      builtins.fetchGit {
        url = "http://127.0.0.1:1/x.git";
        ref = "main";
      }
    );
    store-path = builtins.storePath "/nix/store/00000000000000000000000000000000-x";
    a-function = x: x;
    a-list = [ ];
    a-string = "s";
    a-set = { };
    warns = builtins.trace "a trace" build.ok;
    unfree = throw ''
      Package ‘vmware-1’ in /srv/packages/vmware.nix:3 has an unfree license (‘unfree’), refusing to evaluate.

      a) To temporarily allow unfree packages, you can use an environment variable'';
  };
in
build // evaluation
