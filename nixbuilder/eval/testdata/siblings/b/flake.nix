{ inputs.c = { url = "path:./c"; flake = false; }; outputs = { self, c }: { text = builtins.readFile "${c}/text"; here = ./.; }; }
