package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// standInLib has what the NixOS module takes of nixpkgs' lib. Options are what they are declared
// as; a condition that does not hold leaves nothing.
const standInLib = `rec {
  inherit (builtins) concatMap mapAttrs filter;
  getExe = package: "${package}/bin/${package.meta.mainProgram}";
  last = list: builtins.elemAt list (builtins.length list - 1);
  literalExpression = text: text;
  mapAttrsToList = f: set: map (name: f name set.${name}) (builtins.attrNames set);
  mkDefault = value: value;
  mkEnableOption = _text: { default = false; };
  mkIf = condition: value: if condition then value else { };
  mkOption = option: option;
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: value: if condition then value else [ ];
  splitString = separator: text: builtins.filter builtins.isString (builtins.split (escape separator) text);
  escape = builtins.replaceStrings [ "[" "]" ] [ "\\[" "]" ];
  toInt = builtins.fromJSON;
  types = {
    package = "a type";
    bool = "a type";
    path = "a type";
    str = "a type";
    nullOr = _type: "a type";
    attrsOf = _type: "a type";
    submodule = type: type;
  };
}`

// evaluateModule evaluates the module with settings of its own and no nixpkgs.
const evaluateModule = `
let
  lib = (LIB);
  pkgs = {
    gitMinimal = "/nixpkgs/git";
    openssh = "/nixpkgs/ssh";
    formats.yaml = _: { type = "YAML"; generate = name: value: builtins.toFile name (builtins.toJSON value); };
  };
  module = import MODULE;
  declared = (module { inherit config lib pkgs; }).options.services.nixery-registry;
  # What an option is by default, with what is set in its place.
  resolve = options: set: builtins.mapAttrs (name: option:
    if option ? type.options then resolve option.type.options (set.${name} or { }) // removeAttrs (set.${name} or { }) (builtins.attrNames option.type.options)
    else if option ? default || option ? description then set.${name} or option.default
    else resolve option (set.${name} or { })) options;
  config = {
    nix.package = "/nixpkgs/nix";
    services.nixery-registry = resolve declared (SETTINGS // {
      package = { outPath = "/nixpkgs/registry"; meta.mainProgram = "registry"; };
    });
  };
  made = (module { inherit config lib pkgs; }).config;
in
{
  unit = made.systemd.services.nixery-registry or null;
  file = config.services.nixery-registry.settings;
  trusted = made.nix.settings.trusted-users or [ ];
  ports = made.networking.firewall.allowedTCPPorts or [ ];
}`

// module is what the NixOS module makes of settings.
type module struct {
	Unit *struct {
		Environment   map[string]string
		Path          []string
		ServiceConfig map[string]any
	}
	File    map[string]any
	Trusted []string
	Ports   []int
}

func makeModule(t *testing.T, settings string) (made module) {
	t.Helper()
	expression := strings.NewReplacer(
		"LIB", standInLib, "MODULE", filepath.Join(shared.root, "deploy", "nixos", "module.nix"), "SETTINGS", settings,
	).Replace(evaluateModule)
	out := Exec(
		t, "nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode", "--store",
		filepath.Join(Dir(t), "store"), "--expr", expression,
	)
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatal(err)
	}
	return made
}

// TestNixOSModule evaluates the NixOS module without nixpkgs: its service is the unit of deploy/,
// and the configuration that it writes is one that the registry takes. `make nixpkgs` evaluates it
// with the modules of NixOS.
func TestNixOSModule(t *testing.T) {
	t.Parallel()
	Needs(t, "nix-instantiate")
	if made := makeModule(t, `{ }`); made.Unit != nil || len(made.Trusted) > 0 || len(made.Ports) > 0 {
		t.Errorf("it does something before it is enabled: %+v", made)
	}

	plain := makeModule(t, `{ enable = true; }`)
	if plain.Unit == nil || len(plain.Trusted) > 0 || len(plain.Ports) > 0 {
		t.Fatalf("enabled, it makes %+v", plain)
	}
	unit, err := os.ReadFile(filepath.Join(shared.root, "deploy", "nixery-registry.service"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(unit), "[Service]\n")
	section, _, _ = strings.Cut(section, "[Install]")
	own := []string{ // what a configuration in the Nix store, and a program there, make different
		"ConfigurationDirectory", "Environment", "EnvironmentFile", "ExecStart", "ExecStartPre", "LoadCredential",
	}
	count := 0
	for line := range strings.Lines(section) {
		key, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !found || strings.HasPrefix(line, "#") || slices.Contains(own, key) {
			continue
		}
		count++
		if got, there := plain.Unit.ServiceConfig[key]; !there || got != value {
			t.Errorf("it has %s=%v, the unit %q", key, got, value)
		}
	}
	if want := len(plain.Unit.ServiceConfig) - 4; count != want || count < 30 {
		t.Errorf("it has %d keys beside its own, the unit %d", want, count)
	}
	if !strings.Contains(string(unit), "Environment=HOME="+plain.Unit.Environment["HOME"]+"\n") {
		t.Errorf("its home is %s", plain.Unit.Environment["HOME"])
	}

	full := makeModule(t, `{
		enable = true;
		openFirewall = true;
		credentials."key.pem" = "/secrets/key.pem";
		environmentFile = "/secrets/registry.env";
		settings = {
			http.addr = ":5000";
			middleware.repository = [ { name = "nix"; options = {
				packages.path = "`+FreshPackages(t)+`";
				nix.substituters = [ "https://cache.nixos.org" ];
			}; } ];
		};
	}`)
	got := fmt.Sprint(
		full.Trusted, full.Ports, full.Unit.ServiceConfig["LoadCredential"], full.Unit.ServiceConfig["EnvironmentFile"],
		full.Unit.Path, full.Unit.ServiceConfig["ExecStart"])
	for _, want := range []string{
		"[nixery-registry] [5000] [key.pem:/secrets/key.pem] [/secrets/registry.env]",
		"[/nixpkgs/nix /nixpkgs/git /nixpkgs/ssh]/nixpkgs/registry/bin/registry serve /",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it makes %s, want %s in it", got, want)
		}
	}
	file := filepath.Join(Dir(t), "config.yml")
	content, err := json.Marshal(full.File) // is YAML, too
	if err != nil {
		t.Fatal(err)
	}
	Write(t, file, string(content))
	program, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	Exec(t, program, "serve", "--check", file)
}

// standInFlake replaces nixpkgs for the flake.
const standInFlake = `{
  outputs = _: {
    lib.genAttrs = names: f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) names);
    legacyPackages = builtins.mapAttrs (_: _: rec {
      lib = { makeBinPath = toString; removePrefix = prefix: text: builtins.substring (builtins.stringLength prefix) (-1) text; };
      buildGoModule = arguments: derivation { name = arguments.pname; system = "none"; builder = "none"; };
      dockerTools.buildLayeredImage = arguments: derivation { name = arguments.name + "-image"; system = "none"; builder = "none"; };
      bashInteractive = "bash"; cacert = "cacert"; coreutils = "coreutils"; gitMinimal = "git"; nix = "nix"; openssh = "ssh"; tini = "tini";
    }) { x86_64-linux = null; aarch64-linux = null; };
  };
}`

// TestFlakeOutputs lists what the flake has, with an input that stands in for nixpkgs.
func TestFlakeOutputs(t *testing.T) {
	t.Parallel()
	Needs(t, "nix")
	dir := Dir(t)
	nixpkgs, flake := filepath.Join(dir, "nixpkgs"), filepath.Join(dir, "flake")
	for _, folder := range []string{
		nixpkgs, filepath.Join(flake, "cmd", "registry"), filepath.Join(flake, "deploy", "nixos"),
	} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	Write(t, filepath.Join(nixpkgs, "flake.nix"), standInFlake)
	for _, file := range []string{
		"flake.nix", "default.nix", "cmd/registry/VERSION", "deploy/stock.yml", "deploy/nixery-registry.service",
		"deploy/nixos/module.nix",
	} {
		Write(t, filepath.Join(flake, file), Read(t, filepath.Join(shared.root, file)))
	}
	out := Exec(
		t, "nix", "--extra-experimental-features", "nix-command flakes", "flake", "show", "--json", "--no-write-lock-file",
		"--store", filepath.Join(dir, "store"), "--override-input", "nixpkgs", "path:"+nixpkgs, "path:"+flake,
	)
	var made struct {
		Packages     map[string]map[string]struct{ Name string }
		NixosModules map[string]struct{ Type string }
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, system := range []string{"aarch64-linux", "x86_64-linux"} {
		packages := made.Packages[system]
		got := fmt.Sprint(packages["default"].Name, packages["nixery-registry"].Name, packages["nixery-image"].Name)
		if want := "nixery-registrynixery-registrynixery-registry-image"; len(packages) != 3 || got != want {
			t.Errorf("for %s it has %v", system, packages)
		}
	}
	if len(made.NixosModules) != 1 || made.NixosModules["default"].Type == "" {
		t.Errorf("it has the modules %v", made.NixosModules)
	}
}
