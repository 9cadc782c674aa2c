# Finds packages in a package set by the names that clients use, and says what Nix would build for each.
#
# Results go to stderr one by one, through builtins.trace, because some errors end the whole evaluation: what came before such an
# error stands, and the first name without a result is the culprit. Before the names, it says that it has begun and what the set is.
# Nothing here depends on nixpkgs: a set only has to be an attribute set of derivations, a function to one, or a flake.
{
  # Absolute path of the package set, as a string: a directory with a default.nix or a flake.nix, or a .nix file.
  src,
  # The system to evaluate for, such as x86_64-linux.
  system,
  # The names to find: a JSON list of strings. They are evaluated in this order.
  names,
  # What every result begins with. The set does not know it, so it cannot forge a result.
  nonce,
  # "true": let a package's own error end the evaluation, so that its text is seen. For one name at a time.
  rethrow ? "false",
  # "true": say of attribute sets what is in them, and whether they ask to be searched for packages. The name "" is the whole set.
  walk ? "false",
  # The argument config of the set, as JSON; empty: none was chosen.
  config ? "",
  # For a directory with a flake.nix: what makes a set of it, which is flake.nix beside this file, with arguments of its own.
  flake ? null,
  # The git commit that such a directory is, empty if it is none, and when it was made, in seconds since 1970.
  commit ? "",
  lastModified ? 0,
}:

let
  inherit (builtins)
    all
    attrNames
    attrValues
    deepSeq
    elem
    elemAt
    filter
    foldl'
    fromJSON
    functionArgs
    genList
    head
    intersectAttrs
    isAttrs
    isFunction
    isInt
    isList
    isString
    length
    lessThan
    listToAttrs
    map
    parseDrvName
    removeAttrs
    replaceStrings
    seq
    sort
    split
    stringLength
    substring
    tail
    toJSON
    trace
    tryEval
    typeOf
    ;

  emit = result: trace (nonce + toJSON result) null;

  # A set is called with those of these arguments that it names. One that names none, as `{ ... }:` does, gets the system.
  arguments = {
    inherit system;
    config = if config == "" then { } else fromJSON config;
    overlays = [ ];
  };
  imported = import src;
  call =
    arguments: value:
    if !isFunction value then
      value
    else
      value (
        if functionArgs value == { } then
          { inherit system; }
        else
          intersectAttrs (functionArgs value) arguments
      );
  # What a set may ask for that is a part of another one, unless it says itself what it is.
  base = call arguments (import <nixpkgs>);
  needed =
    removeAttrs
      {
        pkgs = base;
        inherit (base) lib;
      }
      (filter (name: (functionArgs imported).${name}) (attrNames (functionArgs imported)));
  # Whether it reaches the set, or what the set is a part of.
  takesConfig =
    flake == null
    && isFunction imported
    && (functionArgs imported ? config || intersectAttrs (functionArgs imported) needed != { });
  set =
    if config != "" && !takesConfig then
      throw "packages.config of this registry is set, and the package set takes no argument config"
    else if flake != null then
      flake {
        inherit
          src
          system
          commit
          lastModified
          ;
      }
    else if isFunction imported then
      call (arguments // needed) imported
    else
      imported;

  letters = text: genList (n: substring n 1 text) (stringLength text);
  lowerCase = letters "abcdefghijklmnopqrstuvwxyz";
  upperCase = letters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  toLower = replaceStrings upperCase lowerCase;
  toUpper = replaceStrings lowerCase upperCase;

  # Values of the set are of any type, and using one as another type ends the evaluation: look before use.
  stringOr = default: value: if isString value then value else default;
  isStrings = value: isList value && all isString value;
  isStringAttrs = value: isAttrs value && all isString (attrValues value);
  attempt =
    default: value:
    let
      tried = tryEval (deepSeq value value);
    in
    if tried.success then tried.value else default;
  isDerivation = value: isAttrs value && (value.type or null) == "derivation";

  # Those of sorted names that begin with start. Sets may be very large: most of their names are not looked at.
  starting =
    names: start:
    let
      width = stringLength start;
      # The first place from low on where past is true of what a name begins with; it is false of all before that.
      search =
        past: low: high:
        let
          middle = (low + high) / 2;
        in
        if low == high then
          low
        else if past (substring 0 width (elemAt names middle)) then
          search past low middle
        else
          search past (middle + 1) high;
      from = search (begin: !lessThan begin start) 0 (length names);
      to = search (lessThan start) from (length names);
    in
    if start == "" then [ ] else genList (n: elemAt names (from + n)) (to - from);
  # Those that begin with start in lower case or in capitals.
  beginning =
    names: start:
    let
      lower = toLower start;
      upper = toUpper start;
    in
    starting names upper ++ (if lower == upper then [ ] else starting names lower);

  # The attributes of attrs, whose names are sorted in names, that a name may mean: itself, else with `_` before it, else those that differ
  # in case only.
  matches =
    attrs: names: name:
    let
      same =
        name:
        let
          wanted = toLower name;
          length = stringLength name;
        in
        filter (attr: stringLength attr == length && toLower attr == wanted) (
          beginning names (substring 0 1 name)
        );
    in
    if attrs ? ${name} then
      [ name ]
    else if attrs ? ${"_${name}"} then
      [ "_${name}" ]
    else
      sort lessThan (same name ++ same "_${name}");

  # The attributes that a name may have been meant for: those that begin as it does, as it would with its first two letters in their
  # place, or with `_`. Which of them resemble it is for the caller to say.
  similar =
    names: name:
    let
      first = substring 0 1 name;
      second = substring 1 1 name;
    in
    beginning names first
    ++ starting names "_"
    ++ filter (attr: toLower (substring 0 2 attr) == toLower (second + first)) (beginning names second);

  # Follows the parts of a name from value, which stands at path and has attributes of these names.
  follow =
    value: names: path: parts:
    let
      part = head parts;
      found = matches value names part;
      next = value.${head found};
    in
    if parts == [ ] then
      describe value path
    else if isDerivation value then
      inside value path parts
    else if !isAttrs value then
      {
        failure = "not-found";
        inherit path;
        similar = [ ];
      }
    else if found == [ ] then
      {
        failure = "not-found";
        inherit path;
        similar = similar names part;
      }
    else if tail found != [ ] then
      {
        failure = "ambiguous";
        inherit path;
        candidates = found;
      }
    else
      follow next (attrNames next) (path ++ [ (head found) ]) (tail parts);

  # Follows the parts of a name into a package, which stands at path. What is inside it (its source, its stdenv) is nothing that a user
  # would install, but for its outputs: the last part must be one. Before that, parts may lead on to packages that it was made with, as in
  # stdenv.cc.cc.lib, but not to what was fetched.
  inside =
    drv: path: parts:
    let
      part = head parts;
      outputs = outputsOf drv;
      named =
        if elem part outputs then
          [ part ]
        else
          filter (output: toLower output == toLower part) outputs;
      found = matches drv (attrNames drv) part;
      next = drv.${head found};
    in
    if tail parts == [ ] && named != [ ] && tail named == [ ] then
      package drv path (head named)
    else if tail parts == [ ] && named != [ ] then
      {
        failure = "ambiguous";
        inherit path;
        candidates = named;
      }
    else if
      tail parts != [ ] && found != [ ] && tail found == [ ] && isDerivation next && !next ? outputHash
    then
      inside next (path ++ found) (tail parts)
    else
      {
        failure = "inside-package";
        inherit path outputs;
        exists = found != [ ];
      };
  outputsOf = drv: if isStrings (drv.outputs or null) then drv.outputs else [ "out" ];

  # Names may contain dots themselves, so a name is first tried as a whole.
  setNames = attrNames set;
  find =
    name:
    let
      parts = filter isString (split "[.]" name);
    in
    if name == "" then
      describe set [ ]
    else
      follow set setNames [ ] (
        if tail parts != [ ] && matches set setNames name != [ ] then [ name ] else parts
      );

  describe =
    value: path:
    if isDerivation value then
      package value path null
    else
      {
        failure = "not-package";
        inherit path;
        type = if value ? __functor then "lambda" else typeOf value;
      }
      // (
        if walk == "true" && isAttrs value then
          {
            attributes = attrNames value;
            recurse = attempt false (value.recurseForDerivations or false == true);
          }
        else
          { }
      );

  # The package at path, or that output of it alone.
  package =
    drv: path: output:
    let
      meta =
        let
          tried = tryEval (drv.meta or { });
        in
        if tried.success && isAttrs tried.value then tried.value else { };
      text = name: attempt null (stringOr null (meta.${name} or null));
      parsed = parseDrvName (stringOr "" (drv.name or null));
      outputs = outputsOf drv;
      default = stringOr (head outputs) (drv.outputName or null);
      install = attempt null (meta.outputsToInstall or null);
      # Whether it is an output of a package rather than the package, as nixpkgs' lib.getDev and openssl.dev are.
      specified = attempt false (drv.outputSpecified or false == true);
      # A derivation with a single output need not have an attribute for it.
      outPath =
        output:
        let
          attr = drv.${output} or drv;
        in
        stringOr null (if isAttrs attr then attr.outPath or null else null);
    in
    {
      inherit path outputs output;
      pname = stringOr parsed.name (drv.pname or null);
      version = stringOr parsed.version (drv.version or null);
      # Where it runs. A package that is compiled for another platform than its builder's says so in its stdenv, as in nixpkgs.
      system = stringOr (stringOr null (drv.system or null)) (
        attempt null (drv.stdenv.hostPlatform.system or null)
      );
      drvPath = stringOr null (drv.drvPath or null);
      outPaths = listToAttrs (
        map (output: {
          name = output;
          value = outPath output;
        }) outputs
      );
      outputsToInstall =
        if output != null then
          [ output ]
        else if !specified && isStrings install then
          filter (output: elem output outputs) install
        else
          [ default ];
      mainProgram = text "mainProgram";
      description = text "description";
      priority = attempt null (
        let
          priority = meta.priority or null;
        in
        if isInt priority then priority else null
      );
      licenses = attempt [ ] (licenses (meta.license or [ ]));
      image = image (drv.passthru.image or null);
    };

  licenses =
    license:
    if isList license then
      filter (name: name != null) (map licenseName license)
    else
      licenses [ license ];
  licenseName =
    license:
    if isAttrs license then
      stringOr null (license.spdxId or license.shortName or license.fullName or null)
    else
      stringOr null license;

  # What a package sets of its image: the keys with their values, and the keys that cannot be taken.
  image =
    value:
    if value == null then
      null
    else if !isAttrs value then
      { faults = [ "passthru.image is not an attribute set" ]; }
    else
      {
        settings = intersectAttrs imageKeys value;
        faults = filter (fault: fault != null) (
          map (
            key:
            if !imageKeys ? ${key} then
              "passthru.image.${key} is not a key of an image"
            else if !imageKeys.${key}.check value.${key} then
              "passthru.image.${key} is not ${imageKeys.${key}.type}"
            else
              null
          ) (attrNames value)
        );
      };
  imageKeys =
    let
      string = {
        type = "a string";
        check = isString;
      };
      strings = {
        type = "a list of strings";
        check = isStrings;
      };
      stringAttrs = {
        type = "an attribute set of strings";
        check = isStringAttrs;
      };
    in
    {
      entrypoint = strings;
      cmd = strings;
      env = stringAttrs;
      user = string;
      workingdir = string;
      labels = stringAttrs;
      exposedports = strings;
    };

  one =
    name:
    let
      found = find name;
      # Settings of a faulty image may be of types that JSON does not have.
      safe =
        if found ? image && found.image != null && found.image.faults != [ ] then
          found // { image = removeAttrs found.image [ "settings" ]; }
        else
          found;
      tried = tryEval (deepSeq safe safe);
      result = if rethrow == "true" then safe else if tried.success then tried.value else { failure = "throws"; };
    in
    emit (result // { inherit name; });
in

# The first words show that Nix has come as far as the set: what fails before is no fault of the set.
seq (emit { begun = true; }) (
  seq
    (emit {
      set = typeOf set;
      # Whether whoever calls the set can have it refuse less.
      config = takesConfig;
    })
    (
      if isAttrs set then foldl' (done: name: seq (one name) done) null (fromJSON names) else null
    )
)
