# The registry, and an image of it with Nix inside, from a nixpkgs of the caller's choice that has Go 1.26:
#
#   nix-build --arg pkgs 'import <nixpkgs> { }' -A nixery-registry
#   docker load < $(nix-build --arg pkgs 'import <nixpkgs> { }' -A nixery-image)
{
  # nixpkgs, imported. There is no default: what is built shall not depend on what a machine happens to have.
  pkgs,
}:
let
  inherit (builtins)
    elem
    head
    readFile
    split
    ;
  inherit (pkgs.lib) makeBinPath removePrefix;

  # What the program is made from. An edit of anything else, such as the documentation, builds nothing again.
  source = builtins.path {
    name = "nixery-registry-source";
    path = ./.;
    filter =
      path: _type:
      elem (head (split "/" (removePrefix "${toString ./.}/" path))) [
        "cmd"
        "go.mod"
        "go.sum"
        "internal"
        "middleware"
        "nixbuilder"
        "prepare-image"
      ];
  };

  # The unprivileged user of the image, who owns its Nix store.
  uid = 1000;
  gid = 1000;
in
rec {
  nixery-registry = pkgs.buildGoModule {
    pname = "nixery-registry";
    version = head (split "\n" (readFile ./cmd/registry/VERSION));
    src = source;

    # Of the directory that `go mod vendor` makes. The test TestDefaultNix says the new one when dependencies have changed.
    vendorHash = "sha256-AwUVtsO886xSLKRiNcFBIH1G/gQqHAWMxEXGdEXv8Cw=";

    subPackages = [ "cmd/registry" ];
    env.CGO_ENABLED = 0;
    ldflags = [
      "-s"
      "-w"
    ];
    # The tests are `make test`: they want Nix, and peers that a build can't have.
    doCheck = false;

    meta = {
      description = "Container registry that builds images from Nix packages when they are pulled";
      mainProgram = "registry";
    };
  };

  # As the Dockerfile's image: the same user, directories and variables.
  nixery-image = pkgs.dockerTools.buildLayeredImage {
    name = "nixery-registry";
    tag = "latest";

    # The store and its database are the user's own, so that Nix works without root.
    inherit uid gid;
    uname = "registry";
    gname = "registry";
    includeNixDB = true;

    contents = [
      nixery-registry
      pkgs.bashInteractive
      pkgs.cacert
      pkgs.coreutils
      pkgs.gitMinimal
      pkgs.nix
      pkgs.openssh
    ];

    fakeRootCommands = ''
      mkdir -p etc/nix home/registry nix/var/nix var/cache/nixery-registry var/lib/registry
      mkdir -m 1777 -p tmp var/tmp
      install -D -m 644 ${./deploy/stock.yml} usr/share/nixery-registry/config.yml
      ln -s ${nixery-registry}/bin/registry entrypoint.sh
      echo 'root:x:0:0::/root:/bin/false' >etc/passwd
      echo 'registry:x:${toString uid}:${toString gid}::/home/registry:/bin/false' >>etc/passwd
      printf 'root:x:0:\nregistry:x:${toString gid}:\n' >etc/group
      printf 'build-users-group =\nsandbox = false\n' >etc/nix/nix.conf
      chown -R ${toString uid}:${toString gid} home/registry nix var/cache/nixery-registry var/lib/registry
    '';

    config = {
      Entrypoint = [
        "${pkgs.tini}/bin/tini"
        "--"
        "${nixery-registry}/bin/registry"
      ];
      Cmd = [ "serve" ];
      User = "${toString uid}:${toString gid}";
      ExposedPorts."5000/tcp" = { };
      Env = [
        "HOME=/home/registry"
        "PATH=${
          makeBinPath [
            nixery-registry
            pkgs.coreutils
            pkgs.gitMinimal
            pkgs.nix
            pkgs.openssh
          ]
        }"
        "SSL_CERT_FILE=${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt"
        "NIX_SSL_CERT_FILE=${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt"
        "CACHE_DIRECTORY=/var/cache/nixery-registry"
        "STORAGE_PATH=/var/lib/registry"
        "PORT=5000"
        "NIXERY_BUILD_LOCAL=false"
      ];
    };
  };
}
