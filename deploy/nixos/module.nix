# The NixOS module: services.nixery-registry. docs/install/nixos.md has the steps.
#
# The unit's rights and limits are those of ../nixery-registry.service, which is read here.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (builtins)
    any
    filter
    listToAttrs
    match
    readFile
    removeAttrs
    ;
  inherit (lib)
    concatMap
    getExe
    last
    mapAttrs
    mapAttrsToList
    mkDefault
    mkEnableOption
    mkIf
    mkOption
    optional
    optionals
    splitString
    toInt
    types
    ;

  cfg = config.services.nixery-registry;
  yaml = pkgs.formats.yaml { };
  configFile = yaml.generate "nixery-registry.yml" cfg.settings;

  # The lines KEY=VALUE of the unit's section [Service]. None of its keys is there twice.
  service = listToAttrs (
    concatMap (
      line:
      let
        assignment = match "([A-Za-z]+)=(.*)" line;
      in
      optional (assignment != null) {
        name = builtins.elemAt assignment 0;
        value = builtins.elemAt assignment 1;
      }
    ) (splitString "\n" (last (splitString "[Service]" (builtins.head (splitString "[Install]" unit)))))
  );
  unit = readFile ../nixery-registry.service;

  # The options of the registry's stanza `nix`, if it has one.
  stanzas = filter (entry: entry.name or null == "nix") (cfg.settings.middleware.repository or [ ]);
  # The daemon takes these of trusted users alone.
  wantsTrust = any (
    entry:
    let
      nix = entry.options.nix or { };
    in
    nix ? substituters || nix ? builders
  ) stanzas;
in
{
  options.services.nixery-registry = {
    enable = mkEnableOption "the container registry that builds images from Nix packages";

    package = mkOption {
      type = types.package;
      default = (import ../../default.nix { inherit pkgs; }).nixery-registry;
      defaultText = lib.literalExpression "the registry of this repository, built with pkgs";
      description = "The package with bin/registry.";
    };

    settings = mkOption {
      description = ''
        The registry's configuration file, as config.yml.example has it. It is readable to everybody
        in the Nix store: passwords and keys go into `credentials` or `environmentFile`.
      '';
      default = { };
      example = {
        http.addr = ":5000";
        middleware.repository = [
          {
            name = "nix";
            options.packages.channel = "nixos-26.05";
          }
        ];
      };
      type = types.submodule {
        freeformType = yaml.type;
        options = {
          version = mkOption {
            type = types.str;
            default = "0.1";
            description = "The version of the file's form.";
          };
          storage = mkOption {
            type = yaml.type;
            default.filesystem.rootdirectory = "/var/lib/nixery-registry";
            description = "Where images are kept.";
          };
          http.addr = mkOption {
            type = types.str;
            default = "127.0.0.1:5000";
            description = "What to listen on.";
          };
        };
      };
    };

    credentials = mkOption {
      type = types.attrsOf types.path;
      default = { };
      example = {
        "key.pem" = "/var/lib/secrets/registry-key.pem";
      };
      description = ''
        Files that systemd reads as root for the service, by name. The configuration names them
        /run/credentials/nixery-registry.service/NAME.
      '';
    };

    environmentFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/var/lib/secrets/registry.env";
      description = "A file of variables, such as REGISTRY_HTTP_SECRET, that systemd reads as root.";
    };

    trusted = mkOption {
      type = types.bool;
      default = wantsTrust;
      defaultText = "whether the stanza sets nix.substituters or nix.builders";
      description = ''
        Whether the Nix daemon takes caches and builders from the registry. Trusted users can do with
        the daemon what root can.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether the port of http.addr is open to other machines.";
    };
  };

  config = mkIf cfg.enable {
    systemd.services.nixery-registry = {
      description = "Container registry that builds images from Nix packages";
      wantedBy = [ "multi-user.target" ];
      wants = [
        "network-online.target"
        "nix-daemon.socket"
      ];
      after = [
        "network-online.target"
        "nix-daemon.socket"
      ];
      path = [
        config.nix.package
        pkgs.gitMinimal
        pkgs.openssh
      ];
      environment.HOME = "/var/lib/nixery-registry";
      serviceConfig =
        mapAttrs (_key: mkDefault) (
          removeAttrs service [
            "ConfigurationDirectory"
            "Environment"
            "ExecStart"
            "ExecStartPre"
            "LoadCredential"
          ]
        )
        // {
          ExecStartPre = "${getExe cfg.package} serve --check ${configFile}";
          ExecStart = "${getExe cfg.package} serve ${configFile}";
          LoadCredential = mapAttrsToList (name: file: "${name}:${file}") cfg.credentials;
          EnvironmentFile = optionals (cfg.environmentFile != null) [ cfg.environmentFile ];
        };
    };

    nix.settings.trusted-users = optional cfg.trusted "nixery-registry";

    networking.firewall.allowedTCPPorts = optional cfg.openFirewall (
      toInt (last (splitString ":" cfg.settings.http.addr))
    );
  };
}
