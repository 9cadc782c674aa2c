# Small packages that no store has built yet: the file salt differs in every copy of this set. A static busybox is put into bin.
{
  # The platform that builds the packages.
  system ? builtins.currentSystem,
  # What a caller of nixpkgs may pass.
  ...
}:
let
  inherit (builtins)
    genList
    listToAttrs
    readFile
    toString
    ;

  # busybox looks at the name that it is called by.
  b = "${./bin}/busybox";

  # A package that shell text makes; $b is busybox.
  package =
    name: script:
    derivation {
      name = "${name}-1.0";
      inherit system b;
      builder = b;
      args = [
        "sh"
        "-euc"
        script
      ];
      salt = readFile ./salt;
    }
    // {
      pname = name;
      meta.mainProgram = name;
    };

  # A program that prints text, after so many seconds of building.
  says =
    name: seconds: text:
    package name ''
      $b sleep ${toString seconds}
      $b mkdir -p $out/bin
      printf '#!%s sh\necho %s\n' $b '${text}' > $out/bin/${name}
      $b chmod +x $out/bin/${name}
    '';
  library = package "library" "$b mkdir -p $out/lib; echo code > $out/lib/library.so";
  linked =
    name: package name "$b mkdir -p $out/bin; echo ${library}/lib/library.so > $out/bin/${name}";
in
{
  quick = says "quick" 0 (readFile ./text);

  # sleeps.s5 takes five seconds.
  sleeps = {
    recurseForDerivations = true;
  }
  // listToAttrs (
    genList (n: {
      name = "s${toString n}";
      value = says "sleep${toString n}" n "rested";
    }) 121
  );

  # Ten million bytes that do not compress.
  bulky = package "bulky" ''
    $b mkdir -p $out/share
    $b head -c 10000000 /dev/urandom > $out/share/data
  '';

  # What an operator has in every image.
  certs = package "certs" "$b mkdir -p $out/etc; echo authority > $out/etc/certs";
  services = package "services" "$b mkdir -p $out/etc; echo ssh 22 > $out/etc/services";

  # Programs that share a library.
  inherit library;
  reader = linked "reader";
  writer = linked "writer";
  editor = linked "editor";

  # It can be built by no machine but one that says that it has a lamp.
  elsewhere = linked "elsewhere" // {
    inherit
      (derivation (
        (linked "elsewhere").drvAttrs
        // {
          requiredSystemFeatures = [ "lamp" ];
        }
      ))
      outPath
      drvPath
      out
      ;
  };

  fails = package "fails" ''
    echo "compiling $salt"
    echo "no such luck" >&2
    exit 1
  '';
}
