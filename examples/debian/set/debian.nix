# The Debian packages as derivations: one for each entry of packages.json, keyed by Debian's name. Gives the attributes
#
#   packages   the derivations
#   bootstrap  a store path with a static busybox that runs where they do
#   builder    what builds them: the platform, its static busybox, and a patchelf that runs without any package
{
  # The platform that runs them, such as "x86_64-linux".
  system,
  # What this file gives for the platform that builds them; null: they are built where they run.
  native,
  # A directory with packages.json and bootstrap/busybox, a static busybox for that platform.
  parts,
  # A directory with the .deb files.
  pool,
  # Of native's packages, or null: Debian's name -> what is done by hand at the end of its build; shell text for build.sh.
  fixups,
}:
let
  inherit (builtins)
    fromJSON
    genericClosure
    listToAttrs
    mapAttrs
    concatMap
    path
    readFile
    ;

  known = fromJSON (readFile (parts + "/packages.json"));

  bootstrap = path {
    name = "bootstrap";
    path = parts + "/bootstrap";
  };

  # The hash is known, so a store that has the file already need not read it again.
  fetch =
    deb:
    path {
      name = deb.file;
      path = pool + "/${deb.file}";
      recursive = false;
      inherit (deb) sha256;
    };
  debsOf = name: map fetch known.${name}.debs;

  builder = if native == null then { inherit system bootstrap tools; } else native.builder;

  # patchelf and what it runs on, for the time before there are any packages.
  tools = derivation {
    name = "bootstrap-tools";
    inherit system bootstrap;
    builder = "${bootstrap}/busybox";
    args = [
      "sh"
      ./bootstrap.sh
    ];
    debs = concatMap debsOf [
      "libc6"
      "libstdc++6"
      "patchelf"
    ];
  };

  closure =
    names:
    map (item: item.name) (genericClosure {
      startSet = map item names;
      operator = { name, ... }: map item known.${name}.dependencies;
    });
  item = name: {
    key = name;
    inherit name;
  };
  setOf = names: listToAttrs (map (name: item name // { value = true; }) names);

  # Debian does not declare the shells that scripts name in their first line: each package may use those that do not need it.
  belowDash = setOf (closure [ "dash" ]);
  belowBash = setOf (closure [
    "bash"
    "dash"
  ]);

  byHand = fixups { native = if native == null then null else native.packages; };

  build =
    name: entry:
    derivation (
      {
        name = "${name}-${entry.version}";
        pname = name;
        inherit (entry) version;
        inherit (builder) system bootstrap;
        builder = "${builder.bootstrap}/busybox";
        args = [
          "sh"
          ./build.sh
        ];
        debs = debsOf name;
        dependencies = map (dependency: packages.${dependency}) entry.dependencies;
        fixup = byHand.${name} or "";
      }
      // (if name == "libc6" then { } else { inherit (builder) tools; libc = packages.libc6; })
      // (if belowDash ? ${name} then { } else { inherit (packages) dash; })
      // (if belowBash ? ${name} then { } else { inherit (packages) bash; })
    )
    // {
      meta = {
        inherit (entry) description homepage;
      };
      stdenv.hostPlatform = { inherit system; };
    };

  packages = mapAttrs build known;
in
{
  inherit packages bootstrap builder;
}
