# The Debian packages as derivations, keyed by Debian's name: one for each entry of packages.json.
{
  # The platform that builds and runs them, such as "x86_64-linux".
  system,
  # A directory with packages.json and bootstrap/busybox, a static busybox for that platform.
  parts,
  # A directory with the .deb files.
  pool,
  # Debian's name -> what is done by hand at the end of its build; shell text for build.sh.
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

  build =
    name: entry:
    derivation (
      {
        name = "${name}-${entry.version}";
        pname = name;
        inherit (entry) version;
        inherit system bootstrap;
        builder = "${bootstrap}/busybox";
        args = [
          "sh"
          ./build.sh
        ];
        debs = debsOf name;
        dependencies = map (dependency: packages.${dependency}) entry.dependencies;
        fixup = fixups.${name} or "";
      }
      // (if name == "libc6" then { } else { inherit tools; libc = packages.libc6; })
      // (if belowDash ? ${name} then { } else { inherit (packages) dash; })
      // (if belowBash ? ${name} then { } else { inherit (packages) bash; })
    )
    // {
      meta = {
        inherit (entry) description homepage;
      };
    };

  packages = mapAttrs build known;
in
packages
