# Modules of languages, laid out and propagated as those of nixpkgs, for the demo set's interpreters. `greet` of each language
# takes what it says from `polite`, and that from `words`. Beside their modules, all three have a program of their name.
{
  # The platform that runs the packages.
  system ? builtins.currentSystem,
  ...
}:
let
  inherit (builtins) concatStringsSep mapAttrs toFile;

  # The demo set, whose default.nix is here under another name.
  demo = import ./demo.nix { inherit system; };
  busybox = "${demo.busybox}/bin/busybox";

  run =
    name: script:
    derivation {
      inherit name system;
      builder = busybox;
      args = [
        "sh"
        "-euc"
        ''
          export PATH=$NIX_BUILD_TOP/tools; ${busybox} mkdir -p $PATH; ${busybox} --install -s $PATH
          ${script}
        ''
      ];
    };

  # A package with files, a program, and packages that it propagates.
  module =
    prefix: pname: needed: files:
    run "${prefix}${pname}-1.0" ''
      mkdir -p $out/bin $out/nix-support
      echo "#!/bin/sh" > $out/bin/${pname}
      chmod +x $out/bin/${pname}
      echo "${concatStringsSep " " needed}" > $out/nix-support/propagated-build-inputs
      cd $out
      ${concatStringsSep "\n" (
        map (name: ''
          mkdir -p "$(dirname ${name})"
          cat ${toFile "file" files.${name}} > ${name}
        '') (builtins.attrNames files)
      )}
    '';

  # The three modules, each with the name of the one that it imports, or "".
  three =
    make:
    let
      words = make "words" "" [ ];
      polite = make "polite" "words" [ words ];
    in
    {
      inherit words polite;
      greet = make "greet" "polite" [ polite ];
    };

  pythonModules =
    version:
    three (
      pname: imports: needed:
      module "python${version}-" pname (needed ++ [ python3 ]) {
        "lib/python${version}/site-packages/${pname}/__init__.py" =
          if imports == "" then "TEXT = 'good day'\n" else "from ${imports} import TEXT\n";
      }
    );

  # nixpkgs' python has a sitecustomize.py in its site-packages, which takes a variable. Debian's looks for one beside that.
  python3 =
    run "python3-3.11.2" ''
      mkdir $out
      cp -r ${demo.python3}/. $out
      chmod -R u+w $out
      ln -sf site-packages/sitecustomize.py $out/lib/python3.11/sitecustomize.py
      mkdir -p $out/lib/python3.11/site-packages
      cat ${toFile "sitecustomize.py" ''
        import os, site
        for directory in os.environ.pop("NIX_PYTHONPATH", "").split(":"):
            if directory:
                site.addsitedir(directory)
      ''} > $out/lib/python3.11/site-packages/sitecustomize.py
    ''
    // {
      meta.mainProgram = "python3";
    };
in
{
  # The terminal `mine`, as tic compiled it.
  data = run "data" ''
    mkdir -p $out/share/terminfo/m
    echo GgEVAAIAAwAGAAcAbWluZXxhIHRlc3QgdGVybWluYWwAAAEAUAD//xgA/////////////wAAG1tIG1tKAA== |
      base64 -d > $out/share/terminfo/m/mine
  '';

  inherit (demo)
    bash
    bashInteractive
    coreutils
    busybox
    perl
    ruby
    nodejs
    ;
  lua = demo.debian."lua5.4";
  debianPython = demo.python3;
  inherit python3;

  python3Packages = pythonModules "3.11";
  python312Packages = pythonModules "3.12";

  perlPackages = three (
    pname: imports: needed:
    module "perl5.36.0-" pname needed {
      "lib/perl5/site_perl/5.36.0/${pname}.pm" = ''
        package ${pname};
        ${if imports == "" then "sub text { 'good day' }" else "use ${imports}; sub text { ${imports}::text() }"}
        1;
      '';
    }
  );

  rubyPackages = three (
    pname: imports: needed:
    module "ruby3.1-" pname needed {
      "lib/ruby/gems/3.1.0/gems/${pname}-1.0/lib/${pname}.rb" =
        if imports == "" then "TEXT = 'good day'\n" else "require '${imports}'\n";
      "lib/ruby/gems/3.1.0/specifications/${pname}-1.0.gemspec" = ''
        Gem::Specification.new do |s|
          s.name = "${pname}"
          s.version = "1.0"
          s.summary = "A gem"
          s.authors = ["nobody"]
          s.require_paths = ["lib"]
          ${if imports == "" then "" else "s.add_runtime_dependency('${imports}', '= 1.0')"}
        end
      '';
    }
  );

  nodeModules = three (
    pname: imports: needed:
    module "node-" pname needed {
      "lib/node_modules/${pname}/index.js" =
        if imports == "" then "exports.text = 'good day'\n" else "exports.text = require('${imports}').text\n";
    }
  );

  luaPackages = three (
    pname: imports: needed:
    module "lua5.4-" pname needed (
      if imports == "" then
        { "share/lua/5.4/${pname}/init.lua" = "return 'good day'\n"; }
      else
        { "share/lua/5.4/${pname}.lua" = "return require('${imports}')\n"; }
    )
  );
}
