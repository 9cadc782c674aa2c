# Makes a package: a program of its name that says its name and version. Run by busybox.
# shellcheck shell=sh disable=SC2154 # the derivation's attributes are variables
for output in ${outputs:-out}; do
  eval "target=\$$output"
  "$bootstrap/busybox" mkdir -p "$target/bin"
done
printf '#!%s sh\necho "%s %s"\n' "$bootstrap/busybox" "${pname:-$name}" "${version:-}" >"$out/bin/${pname:-$name}"
"$bootstrap/busybox" chmod +x "$out/bin/${pname:-$name}"
