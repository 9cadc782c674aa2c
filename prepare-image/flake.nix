# Calls a flake and gives its packages for one system: the attributes of legacyPackages.SYSTEM, and those of packages.SYSTEM that are no
# attributes of the former.
#
# This does what Nix does with a locked flake, with functions that every Nix has. Nix's own builtins.getFlake is an experimental feature, and asks
# registries and remotes for whatever is not locked; here that is an error. What the lock file names is fetched only when it is used, and checked.
#
# Errors are thrown: they end the evaluation of the set, or of the one package that needs the input.
{
  # Absolute path of the directory with the flake.nix, as a string.
  src,
  # The system whose packages are wanted, such as x86_64-linux.
  system,
  # The git commit that src is; empty: it is none.
  commit,
  # When it was made, in seconds since 1970.
  lastModified,
}:

let
  inherit (builtins)
    attrNames
    compareVersions
    concatStringsSep
    elem
    fetchGit
    fetchTarball
    fetchurl
    filter
    foldl'
    fromJSON
    functionArgs
    head
    intersectAttrs
    isFunction
    isList
    isString
    mapAttrs
    nixVersion
    pathExists
    readFile
    seq
    split
    substring
    tail
    toString
    ;

  lockFile = src + "/flake.lock";
  lock =
    if pathExists lockFile then
      fromJSON (readFile lockFile)
    else
      {
        version = 7;
        root = "root";
        nodes.root = { };
      };

  # An input is the name of a node, or the path of inputs that leads to it from the root.
  resolve = input: if isList input then follow lock.root input else input;
  follow =
    node: path:
    if path == [ ] then
      node
    else
      follow (resolve lock.nodes.${node}.inputs.${head path}) (tail path);

  # The store path of a locked input. Without a hash of its files, only a commit of git is as good.
  fetch =
    name: node:
    let
      inherit (node) locked;
      hash = locked.narHash or (throw "the input ${name} is not locked by a narHash: run `nix flake lock`");
      archive =
        url:
        fetchTarball {
          name = "source";
          inherit url;
          sha256 = hash;
        };
      host = default: "https://${locked.host or default}";
    in
    {
      tarball = archive locked.url;
      file = seq hash (checked (fetchurl locked.url) hash);
      github = archive "${host "github.com"}/${locked.owner}/${locked.repo}/archive/${locked.rev}.tar.gz";
      gitlab = archive "${host "gitlab.com"}/api/v4/projects/${locked.owner}%2F${locked.repo}/repository/archive.tar.gz?sha=${locked.rev}";
      sourcehut = archive "${host "git.sr.ht"}/${locked.owner}/${locked.repo}/archive/${locked.rev}.tar.gz";
      git =
        if locked ? rev then
          (fetchGit (
            {
              name = "source";
              allRefs = !(locked ? ref);
            }
            // intersectAttrs {
              url = null;
              rev = null;
              ref = null;
              submodules = null;
              shallow = null;
            } locked
            // (if compareVersions nixVersion "2.20" >= 0 then { exportIgnore = false; } else { })
          )).outPath
        else
          throw "the input ${name} is not locked to a commit: run `nix flake lock`";
      path = checked locked.path hash;
    }
    .${locked.type} or (throw "the input ${name} is of type ${locked.type}, which is not supported");
  # Relative paths are of files that are there, below the flake that names them or beside it. What the lock file says of their content does not count.
  isRelative = node: node.locked.type or "" == "path" && substring 0 1 node.locked.path != "/";
  # The directories below the top of a source that a path leads to, from some of them; null if it leads out.
  below =
    from: path:
    foldl' (
      at: part:
      if at == null || part == "" || part == "." then
        at
      else if part != ".." then
        [ part ] ++ at
      else if at == [ ] then
        null
      else
        tail at
    ) from (filter isString (split "/" path));
  checked =
    path: sha256:
    builtins.path {
      name = "source";
      inherit path sha256;
    };

  # What a flake may know of its own source.
  about =
    locked:
    intersectAttrs {
      rev = null;
      revCount = null;
      narHash = null;
      lastModified = null;
    } locked
    // (
      if locked ? rev then
        { shortRev = substring 0 7 locked.rev; }
      else
        { }
    )
    // (if locked ? lastModified then { lastModifiedDate = date locked.lastModified; } else { });

  # A time in seconds since 1970 as YYYYMMDDhhmmss, by days of 400 years that begin in March.
  date =
    seconds:
    let
      days = seconds / 86400;
      second = seconds - days * 86400;
      shifted = days + 719468;
      era = shifted / 146097;
      dayOfEra = shifted - era * 146097;
      yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146096) / 365;
      dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
      fromMarch = (5 * dayOfYear + 2) / 153;
      month = if fromMarch < 10 then fromMarch + 3 else fromMarch - 9;
      year = yearOfEra + era * 400 + (if month <= 2 then 1 else 0);
      pad = number: (if number < 10 then "0" else "") + toString number;
    in
    toString year
    + pad month
    + pad (dayOfYear - (153 * fromMarch + 2) / 5 + 1)
    + pad (second / 3600)
    + pad (second / 60 - second / 3600 * 60)
    + pad (second - second / 60 * 60);

  nodes = mapAttrs (
    name: node:
    let
      isRoot = name == lock.root;
      title = if isRoot then "the package set" else "the input ${name}";
      relative = !isRoot && isRelative node;
      # Lock files that old versions of Nix (2.8, not 2.26) wrote don't say which flake names a path, and those versions copy what is there.
      copied = relative && !(node ? parent) && node.locked ? narHash;
      parent = nodes.${follow lock.root (node.parent or [ ])};
      inside = below (if relative then parent.inside else [ ]) (
        if relative then node.locked.path else node.locked.dir or ""
      );
      beside =
        if inside == null then
          throw "the input ${name} is outside of the flake, at ${node.locked.path}"
        else
          parent.outPath + (if node.locked.path == "" then "" else "/" + node.locked.path);
      sourceInfo =
        if isRoot then
          {
            outPath = builtins.path {
              name = "source";
              path = src;
            };
          }
          // about ({ inherit lastModified; } // (if commit == "" then { } else { rev = commit; }))
        else if copied then
          {
            outPath = builtins.path {
              name = "source";
              path = beside;
            };
          }
          // about node.locked
        else if relative then
          parent.sourceInfo
        else
          { outPath = fetch name node; } // about node.locked;
      directory = node.locked.dir or "";
      outPath =
        if relative && !copied then
          beside
        else
          sourceInfo.outPath + (if directory == "" then "" else "/" + directory);

      flake = import (outPath + "/flake.nix");
      locked = node.inputs or { };
      # Inputs need not be declared: outputs may just ask for them.
      unlocked = filter (input: input != "self" && !locked ? ${input}) (
        attrNames (flake.inputs or { } // functionArgs flake.outputs)
      );
      inputs = mapAttrs (_: input: nodes.${resolve input}.result) locked;
      outputs = flake.outputs (inputs // { self = result; });
      result =
        outputs
        // sourceInfo
        // {
          inherit
            outPath
            inputs
            outputs
            sourceInfo
            ;
          _type = "flake";
        };
    in
    {
      inherit outPath sourceInfo inside;
      result =
        if !(node.flake or true) then
          sourceInfo // { inherit sourceInfo outPath; }
        else if !isFunction (flake.outputs or null) then
          throw "the flake.nix of ${title} has no function outputs"
        else if unlocked != [ ] then
          throw "flake.lock does not lock what the flake.nix of ${title} needs: ${concatStringsSep ", " unlocked}. Run `nix flake lock` and add flake.lock to the package set"
        else
          result;
    }
  ) lock.nodes;

  inherit (nodes.${lock.root}.result) outputs;
  has = attribute: outputs ? ${attribute}.${system};
in
if !elem lock.version [ 5 6 7 ] then
  throw "flake.lock is of version ${toString lock.version}, which is not known here"
else if !has "legacyPackages" && !has "packages" then
  throw "the flake has neither legacyPackages.${system} nor packages.${system}"
else
  (outputs.packages.${system} or { }) // (outputs.legacyPackages.${system} or { })
