# What the set needs of nixpkgs' lib, with its names and meanings.
let
  inherit (builtins)
    attrNames
    attrValues
    concatMap
    elem
    elemAt
    filter
    functionArgs
    head
    intersectAttrs
    isAttrs
    isFunction
    length
    listToAttrs
    map
    mapAttrs
    removeAttrs
    ;

  lib = {
    inherit (builtins) foldl' mapAttrs;

    fix =
      f:
      let
        x = f x;
      in
      x;
    extends =
      overlay: f: final:
      let
        previous = f final;
      in
      previous // overlay final previous;
    composeExtensions =
      f: g: final: previous:
      let
        first = f final previous;
      in
      first // g final (previous // first);
    makeExtensible =
      rattrs:
      lib.fix (self: rattrs self // { extend = f: lib.makeExtensible (lib.extends f rattrs); });

    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    optionalAttrs = condition: attrs: if condition then attrs else { };
    recurseIntoAttrs = attrs: attrs // { recurseForDerivations = true; };
    dontRecurseIntoAttrs = attrs: attrs // { recurseForDerivations = false; };
    isDerivation = value: value.type or null == "derivation";
    getDev = package: package.dev or package.out or package;
    filterAttrs =
      predicate: attrs:
      removeAttrs attrs (filter (name: !predicate name attrs.${name}) (attrNames attrs));
    genAttrs =
      names: f:
      listToAttrs (
        map (name: {
          inherit name;
          value = f name;
        }) names
      );
    # Merges pairs, then pairs of pairs: the sets are many, and each merge copies.
    mergeAttrsList =
      list:
      let
        merge =
          start: end:
          if end - start >= 2 then
            merge start ((start + end) / 2) // merge ((start + end) / 2) end
          else
            elemAt list start;
      in
      if list == [ ] then { } else merge 0 (length list);

    mirrorFunctionArgs =
      f: g:
      let
        args = functionArgs f;
      in
      if args == { } then
        g
      else
        {
          __functor = _: g;
          __functionArgs = args;
        };
    functionArgs = f: if f ? __functor then f.__functionArgs or { } else functionArgs f;
    makeOverridable =
      f:
      lib.mirrorFunctionArgs f (
        origArgs:
        let
          result = f origArgs;
          overrideWith = newArgs: origArgs // (if isFunction newArgs then newArgs origArgs else newArgs);
          overrideArgs = lib.mirrorFunctionArgs f (newArgs: lib.makeOverridable f (overrideWith newArgs));
          overrideResult = g: lib.makeOverridable (lib.mirrorFunctionArgs f (args: g (f args))) origArgs;
        in
        if isAttrs result then
          result
          // {
            override = overrideArgs;
            overrideDerivation = fdrv: overrideResult (x: lib.overrideDerivation x fdrv);
            ${if result ? overrideAttrs then "overrideAttrs" else null} =
              fdrv: overrideResult (x: x.overrideAttrs fdrv);
          }
        else
          result
      );
    overrideDerivation = drv: f: derivation (drv.drvAttrs // f drv);
    callPackageWith =
      autoArgs: fn: args:
      let
        f = if isFunction fn then fn else import fn;
        fargs = lib.functionArgs f;
        allArgs = intersectAttrs fargs autoArgs // args;
        missing = filter (name: !fargs.${name} && !allArgs ? ${name}) (attrNames fargs);
      in
      if missing == [ ] then
        lib.makeOverridable f allArgs
      else
        abort "evaluation aborted: function called without required argument \"${head missing}\"";
    callPackagesWith =
      autoArgs: fn: args:
      let
        f = if isFunction fn then fn else import fn;
        auto = intersectAttrs (lib.functionArgs f) autoArgs;
        origArgs = auto // args;
      in
      mapAttrs (
        name: _: lib.makeOverridable (newArgs: (f newArgs).${name}) origArgs
      ) (f origArgs);

    # Asserts a condition when an output or the derivation is used, not before: names and meta can be had of what is refused.
    extendDerivation =
      condition: passthru: drv:
      let
        common =
          drv
          // listToAttrs outputs
          // {
            all = map (output: output.value) outputs;
          }
          // passthru;
        outputToAttr = name: {
          inherit name;
          value =
            common
            // {
              inherit (drv.${name}) type outputName;
              outputSpecified = true;
              drvPath =
                assert condition;
                drv.${name}.drvPath;
              outPath =
                assert condition;
                drv.${name}.outPath;
            };
        };
        outputs = map outputToAttr (drv.outputs or [ "out" ]);
      in
      common
      // {
        drvPath =
          assert condition;
          drv.drvPath;
        outPath =
          assert condition;
          drv.outPath;
      };

    licenses =
      mapAttrs
        (
          shortName: spdxId:
          {
            inherit shortName spdxId;
            fullName = spdxId;
            free = true;
            redistributable = true;
            deprecated = false;
          }
        )
        {
          mit = "MIT";
          asl20 = "Apache-2.0";
          bsd3 = "BSD-3-Clause";
          gpl2Only = "GPL-2.0-only";
          gpl3Plus = "GPL-3.0-or-later";
          lgpl21Plus = "LGPL-2.1-or-later";
          mpl20 = "MPL-2.0";
          isc = "ISC";
        }
      // {
        unfree = {
          shortName = "unfree";
          fullName = "Unfree";
          free = false;
        };
      };
    platforms = {
      linux = [
        "aarch64-linux"
        "i686-linux"
        "x86_64-linux"
      ];
      darwin = [
        "aarch64-darwin"
        "x86_64-darwin"
      ];
      all = lib.platforms.linux ++ lib.platforms.darwin;
    };
    inherit concatMap elem attrValues;
  };
in
lib
