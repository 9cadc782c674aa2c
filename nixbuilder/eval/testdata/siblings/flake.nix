{
  inputs.a.url = "path:./a";
  outputs = { self, a }: { packages.x86_64-linux.uses = derivation { name = "uses-${a.text}"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ a.here a.inputs.b.here "${a.inputs.b}" a.inputs.b.inputs.c.outPath ]; }; };
}
