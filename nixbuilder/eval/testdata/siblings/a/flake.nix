{ inputs.b.url = "path:../b"; outputs = { self, b }: { text = "a-and-${b.text}"; here = ./flake.nix; }; }
