# Small packages that show what else a package set may hold: attributes that are not packages or cannot be used, builds
# that fail or take long, names that need care, outputs with unusual files.
{
  # The platform that runs the packages, such as "x86_64-linux".
  system,
  # A store path with a static busybox for it.
  bootstrap,
  # What builds them: a platform, and a store path with a static busybox for that.
  builder,
}:
let
  inherit (builtins)
    genList
    listToAttrs
    toString
    unsafeGetAttrPos
    ;

  licenses = {
    mit = {
      spdxId = "MIT";
      shortName = "mit";
      fullName = "MIT License";
      free = true;
    };
    unfree = {
      shortName = "unfree";
      fullName = "Unfree";
      free = false;
    };
  };

  # A package of version 1.0 that shell text makes. Words of busybox are at hand, $out is where the result goes.
  demo =
    pname: script:
    {
      # Merged into the derivation's own meta.
      meta ? { },
      # Attributes beside those of the derivation.
      passthru ? { },
      # The names of the outputs, the first being the default one.
      outputs ? [ "out" ],
    }:
    let
      drv = derivation {
        name = "${pname}-1.0";
        version = "1.0";
        inherit
          pname
          bootstrap
          outputs
          ;
        inherit (builder) system;
        builder = "${builder.bootstrap}/busybox";
        args = [
          "sh"
          "-euc"
          script
        ];
      };
    in
    drv
    // passthru
    // {
      inherit passthru;
      stdenv.hostPlatform = { inherit system; };
      meta = {
        description = "A package that shows ${pname}";
        license = licenses.mit;
        outputsToInstall = [ "out" ];
        priority = 5;
      }
      // meta;
    };

  # A program that prints text.
  says =
    pname: text:
    demo pname ''
      mkdir -p $out/bin
      printf '#!%s sh\necho "%s"\n' $bootstrap/busybox "${text}" > $out/bin/${pname}
      chmod +x $out/bin/${pname}
    '' { meta.mainProgram = pname; };

  # A package that takes that many seconds to build and says every ten of them how far it is.
  sleepy =
    seconds: pname:
    demo pname ''
      left=${toString seconds}
      while [ $left -gt 0 ]; do
        echo "${pname}: $left seconds left"
        step=$((left < 10 ? left : 10))
        sleep $step
        left=$((left - step))
      done
      mkdir -p $out/bin
      printf '#!%s sh\necho rested\n' $bootstrap/busybox > $out/bin/${pname}
      chmod +x $out/bin/${pname}
    '' { meta.mainProgram = pname; };

  # What nixpkgs makes of a package that it does not let be used: name and meta are there, the derivation is not.
  refuse =
    reason: meta: attribute:
    let
      drv = says attribute "never";
      position = unsafeGetAttrPos attribute set;
      message = "Package ‘${drv.name}’ in ${position.file}:${toString position.line} ${reason}, refusing to evaluate.";
    in
    drv
    // {
      drvPath = throw message;
      outPath = throw message;
      meta =
        drv.meta
        // {
          available = false;
          unfree = false;
          broken = false;
          insecure = false;
        }
        // meta;
    };

  set = {
    # Not to be used.
    unfree-demo = refuse "has an unfree license (‘unfree’)" {
      license = licenses.unfree;
      unfree = true;
    } "unfree-demo";
    broken-demo = refuse "is marked as broken" { broken = true; } "broken-demo";
    insecure-demo = refuse "is marked as insecure" {
      insecure = true;
      knownVulnerabilities = [ "CVE-0000-0000" ];
    } "insecure-demo";
    unavailable-demo =
      refuse "is not available on the requested hostPlatform" { unsupported = true; }
        "unavailable-demo";

    # Builds.
    fails-demo = demo "fails-demo" ''
      echo "configuring fails-demo"
      echo "compiling fails-demo"
      echo "fails-demo.c:1: error: this package never builds" >&2
      exit 1
    '' { };
    slow-demo = sleepy 120 "slow-demo";
    sleepy = {
      recurseForDerivations = true;
      s5 = sleepy 5 "sleepy5";
      s30 = sleepy 30 "sleepy30";
      s100 = sleepy 100 "sleepy100";
    };

    # Names.
    _1demo = says "1demo" "one";
    Casedemo = says "Casedemo" "upper";
    caseDemo = says "caseDemo" "lower";
    "dotted.demo" = says "dotted.demo" "a dot";
    upperPackages = {
      recurseForDerivations = true;
      HLint = says "HLint" "upper";
    };
    variants = {
      recurseForDerivations = true;
    }
    // listToAttrs (
      genList (
        i:
        let
          name = "v${toString (i + 1)}";
        in
        {
          inherit name;
          value = says "variant-${name}" name;
        }
      ) 60
    );

    # Files. The last two bring the same one.
    files-demo = demo "files-demo" ''
      mkdir -p $out/bin $out/etc "$out/share/a directory/empty"
      printf 'a\nb' > "$out/share/a directory/$(printf 'line\nbreak')"
      echo ü > "$out/share/a directory/ümlaut"
      echo -n > "$out/share/a directory/-rf"
      echo same > $out/share/first
      ln $out/share/first $out/share/second
      ln -s first $out/share/relative
      ln -s $out/share/first $out/share/absolute
      ln -s missing $out/share/dangling
      ln -s /etc/passwd $out/etc/outside
      ln -s ../../../../../../etc/passwd $out/etc/climbing
      ln -s loop $out/share/loop
      ln -s "share/a directory" $out/linked
    '' { };
    outputs-demo =
      demo "outputs-demo"
        ''
          mkdir -p $out/bin $dev/include
          echo '#define OUTPUTS 2' > $dev/include/outputs.h
          printf '#!%s sh\necho "$0"\n' $bootstrap/busybox > $out/bin/outputs-demo
          chmod +x $out/bin/outputs-demo
        ''
        {
          meta.mainProgram = "outputs-demo";
          outputs = [
            "out"
            "dev"
          ];
        };
    first-demo = says "same-demo" "first";
    second-demo =
      let
        drv = says "same-demo" "second";
      in
      drv
      // {
        meta = drv.meta // {
          priority = 4;
        };
      };

    # An image of its own making.
    image-demo = demo "image-demo" "mkdir -p $out/bin; echo data > $out/data" {
      passthru.image = {
        entrypoint = [ "/bin/image-demo" ];
        cmd = [
          "--say"
          "a b"
        ];
        env = {
          GREETING = "hello world";
        };
        user = "1000:1000";
        workingdir = "/tmp";
        labels = {
          "org.example.demo" = "image";
        };
        exposedports = [
          "8080/tcp"
          "53/udp"
        ];
      };
    };

    # Not packages.
    mkDemo = text: says "made-demo" text;
    text-demo = "a string";
    functor-demo.__functor = _: says "functor-demo";
    renamed-demo = throw "‘renamed-demo’ has been renamed to ‘hello’";
    throws-demo = {
      inner = says "inner" "never";
    }
    // throw "this set cannot be looked into";
    assert-demo =
      assert false;
      says "assert-demo" "never";
    abort-demo = abort "this attribute ends the evaluation";
    loop-demo =
      let
        loop = loop;
      in
      loop;
    deep-demo =
      let
        deep = n: 1 + deep (n + 1);
      in
      deep 0;
    type-demo = says "type-demo" 1;
    missing-demo = { }.missing;
  };
in
set
