//go:build nixpkgs

package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// evaluateNixOS makes a machine with the module. A nixpkgs of which somebody has left out modules
// will do: options that none declares are not looked at.
const evaluateNixOS = `
let
  machine = import NIXPKGS/nixos/lib/eval-config.nix {
    system = "x86_64-linux";
    modules = [
      MODULE
      {
        _module.check = false;
        boot.loader.grub.enable = false;
        fileSystems."/" = { device = "none"; fsType = "tmpfs"; };
        services.nixery-registry = {
          enable = true;
          openFirewall = true;
          credentials."key.pem" = "/secrets/key.pem";
          settings = {
            http.addr = ":5000";
            middleware.repository = [ { name = "nix"; options.nix.builders = ""; } ];
          };
        };
        system.stateVersion = "26.05";
      }
    ];
  };
in
{
  unit = machine.config.systemd.units."nixery-registry.service".text;
  trusted = machine.config.nix.settings.trusted-users;
  ports = machine.config.networking.firewall.allowedTCPPorts;
}`

// TestNixpkgsModule evaluates the NixOS module with the modules of the nixpkgs in NIXPKGS, and has
// systemd look at the service.
func TestNixpkgsModule(t *testing.T) {
	t.Parallel()
	Needs(t, "nix-instantiate", "systemd-analyze")
	expression := strings.NewReplacer(
		"NIXPKGS", os.Getenv("NIXPKGS"), "MODULE", filepath.Join(shared.root, "deploy", "nixos", "module.nix"),
	).Replace(evaluateNixOS)
	out := Exec(t, "nix-instantiate", "--eval", "--strict", "--json", "--store", "dummy://", "--expr", expression)
	var made struct {
		Unit    string
		Trusted []string
		Ports   []int
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(made.Trusted, "nixery-registry") || !slices.Contains(made.Ports, 5000) {
		t.Errorf("the daemon trusts %v, and ports %v are open", made.Trusted, made.Ports)
	}
	if !strings.Contains(made.Unit, "\nLoadCredential=key.pem:/secrets/key.pem\n") {
		t.Errorf("the unit is\n%s", made.Unit)
	}
	unit := filepath.Join(Dir(t), "nixery-registry.service")
	Write(t, unit, made.Unit)
	Exec(t, "systemd-analyze", "security", "--offline=true", "--threshold=24", "--no-pager", unit)
}
