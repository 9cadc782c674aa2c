# Turns Debian packages into one store path that runs from there.
#
# Run by busybox's sh as the builder of a derivation. Needs:
#
#   debs          the .deb files; where two bring the same file, the first wins
#   dependencies  store paths that are needed at run time
#   tools         a directory with patchelf; unset: nothing is patched (the C library itself)
#   libc          the store path of the C library, whose loader starts every program
#   dash, bash    store paths of the shells, for the first line of scripts; unset for what they are made of
#   fixup         shell text that does by hand what Debian's installation scripts would have done. It runs in $out and
#                 may use the functions below.
#   out           where the result goes
#
# shellcheck shell=dash disable=SC2123,SC2154 # no PATH is wanted, and Nix sets the variables
set -eu

# Its own applets are all that busybox's shell finds.
PATH=

# merge FROM TO moves FROM to TO; where both are directories, what is in FROM that TO does not have.
merge() {
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then
    return
  elif [ ! -e "$2" ] && [ ! -L "$2" ]; then
    mkdir -p "${2%/*}"
    mv "$1" "$2"
  elif [ -d "$1" ] && [ ! -L "$1" ] && [ -d "$2" ] && [ ! -L "$2" ]; then
    for entry in "$1"/* "$1"/.[!.]*; do merge "$entry" "$2/${entry##*/}"; done
  fi
}

unpack() {
  for deb in $debs; do
    mkdir root
    # Through tar alone: the sandbox of Nix refuses set-uid bits, and there is nobody to give files to.
    ar p "$deb" data.tar.xz | tar -xJ -o --no-same-permissions -f - -C root
    for dir in bin sbin usr/bin usr/sbin usr/games; do merge "$PWD/root/$dir" "$out/bin"; done
    for dir in lib lib64 usr/lib usr/lib64; do merge "$PWD/root/$dir" "$out/lib"; done
    for dir in usr/libexec usr/share usr/include; do merge "$PWD/root/$dir" "$out/${dir#usr/}"; done
    merge "$PWD/root/etc" "$out/etc"
    rm -rf root
  done
  cd "$out"
  rm -rf share/man share/info share/lintian share/bug share/doc-base share/menu lib/systemd lib/tmpfiles.d lib/udev
  rm -rf etc/init.d etc/cron.* etc/logrotate.d etc/default
  [ ! -d share/doc ] || find share/doc ! -type d ! -name copyright -exec rm {} +
  # Empty directories go too.
  find . -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
}

# closure prints all store paths that the dependencies reach, in breadth-first order.
closure() {
  seen=' '
  queue=$dependencies
  while [ -n "$queue" ]; do
    next=
    for path in $queue; do
      case $seen in *" $path "*) continue ;; esac
      seen="$seen$path "
      echo "$path"
      while read -r dependency; do next="$next $dependency"; done < "$path/nix-support/dependencies"
    done
    queue=$next
  done
}

# locate prints where a file of Debian, given as an absolute name, is in the store.
locate() {
  wanted=${1#/usr}
  case $wanted in
    /sbin/* | /games/*) wanted=/bin/${wanted#/*/} ;;
    /lib64/*) wanted=/lib/${wanted#/*/} ;;
  esac
  for path in "$out" $reachable; do
    if [ -e "$path$wanted" ] || [ -L "$path$wanted" ]; then
      echo "$path$wanted"
      return
    fi
  done
  return 1
}

# Links to absolute names, or to what another package has in the same place, lead into the store.
relink() {
  find . -type l | while read -r link; do
    target=$(readlink "$link")
    case $target in
      "$out"/*) continue ;;
      /*) ;;
      *)
        [ ! -e "$link" ] || continue
        target=$(echo "$(dirname "/${link#./}")/$target" |
          sed -E ':again; s#//+#/#g; s#/\./#/#; t again; s#^/\.\./#/#; t again; s#/[^/]+/\.\./#/#; t again')
        ;;
    esac
    if found=$(locate "$target") && [ "$found" != "$out/${link#./}" ]; then ln -sfn "$found" "$link"; fi
  done
}

# library prints the directory that holds a shared library.
library() {
  for path in "$out" $libc $dependencies; do
    for dir in "$path/lib/$triplet" "$path/lib"; do
      if [ -e "$dir/$1" ]; then
        echo "$dir"
        return
      fi
    done
  done
  for path in "$out" $reachable; do
    [ -d "$path/lib" ] || continue
    file=$(find "$path/lib" -name "$1" | sort | head -n 1)
    if [ -n "$file" ]; then
      dirname "$file"
      return
    fi
  done
}

# Programs are started by the store's loader, and everything looks for its libraries in the store.
patch_elf() {
  find . -type f -size +0 -exec grep -l "^$(printf '\177ELF')" {} + 2>/dev/null | sort | while read -r file; do
    needed=$(sh "$tools/patchelf" --print-needed "$file" 2>/dev/null) || continue
    runpath=
    for name in $needed; do
      dir=$(library "$name")
      if [ -z "$dir" ]; then
        echo "$file: $name is nowhere" >&2
        continue
      fi
      case ":$runpath:" in *":$dir:"*) ;; *) runpath=$runpath${runpath:+:}$dir ;; esac
    done
    # A second name of a file that is done already.
    [ "$(sh "$tools/patchelf" --print-rpath "$file")" != "$runpath" ] || continue
    set --
    [ -z "$runpath" ] || set -- --set-rpath "$runpath"
    if interpreter=$(sh "$tools/patchelf" --print-interpreter "$file" 2>/dev/null); then
      set -- "$@" --set-interpreter "$libc/lib/$triplet/${interpreter##*/}"
    fi
    [ $# -eq 0 ] || sh "$tools/patchelf" "$@" "$file"
  done
}

# program prints where the program of a script's first line is in the store.
program() {
  case $1 in
    sh) set -- sh "${dash:-}/bin/dash" ;;
    bash) set -- bash "${bash:-}/bin/bash" ;;
    *) set -- "$1" "" ;;
  esac
  if locate "/bin/$1"; then return; fi
  [ -n "$2" ] && [ -e "$2" ] && echo "$2"
}

# Scripts name their interpreter in the store. Perl's also say where the modules are that they may use.
patch_scripts() {
  modules=
  for path in "$out" $reachable; do
    for dir in "$path/share/perl5" "$path/lib/$triplet"/perl5/*; do [ ! -d "$dir" ] || modules="$modules $dir"; done
  done
  find . -type f -perm -100 -exec grep -l '^#!' {} + 2>/dev/null | sort | while read -r file; do
    read -r first < "$file" || continue
    case $first in '#!'*) ;; *) continue ;; esac
    # shellcheck disable=SC2086 # the words of the line
    set -- ${first#??}
    [ "${1:-}" != /usr/bin/env ] || shift
    case ${1:-} in /nix/* | "") continue ;; esac
    interpreter=$(program "${1##*/}") || continue
    shift
    use=
    case $interpreter in */bin/perl) [ -z "$modules" ] || use="use lib qw($modules );" ;; esac
    {
      echo "#!$interpreter${*:+ $*}"
      [ -z "$use" ] || echo "$use"
      tail -n +2 "$file"
    } > "$file.new"
    cat "$file.new" > "$file"
    rm "$file.new"
  done
}

# wrap PROGRAM VARIABLE VALUE… makes bin/PROGRAM set variables, unless they are set, and start libexec/PROGRAM. PATH and
# PERL5LIB get the value added at their end.
wrap() {
  name=$1
  shift
  mkdir -p libexec
  mv "bin/$name" "libexec/$name"
  {
    echo "#!$dash/bin/dash"
    while [ $# -gt 0 ]; do
      case $1 in
        PATH | PERL5LIB) echo "export $1=\"\${$1:+\$$1:}$2\"" ;;
        *) echo "export $1=\"\${$1:-$2}\"" ;;
      esac
      shift 2
    done
    echo "exec $out/libexec/$name \"\$@\""
  } > "bin/$name"
  chmod +x "bin/$name"
}

# replace FILE OLD NEW puts NEW for OLD, a text of the same length, wherever a binary file has it.
replace() {
  [ ${#2} -eq ${#3} ]
  # By way of hexadecimal digits, because busybox's sed does not keep bytes of zero.
  old=$(printf %s "$2" | xxd -p | tr -d '\n')
  new=$(printf %s "$3" | xxd -p | tr -d '\n')
  xxd -p "$1" | tr -d '\n' | sed "s/$old/$new/g" | fold -w 60 | xxd -r -p > "$1.new"
  cat "$1.new" > "$1"
  rm "$1.new"
}

# bin_of PROGRAM… prints the directories of programs that the dependencies bring, as PATH has them.
bin_of() {
  for name; do dirname "$(locate "/bin/$name")"; done | sort -u | paste -s -d : -
}

# existing FILE… prints those that there are, with a colon between them.
existing() {
  for file; do [ ! -e "$file" ] || echo "$file"; done | paste -s -d : -
}

# link NAME TARGET gives a file of the package a second name; TARGET is relative to the new name's directory.
link() {
  mkdir -p "$(dirname "$1")"
  ln -sfn "$2" "$1"
}

mkdir -p "$out"
unpack
reachable=$(closure)
triplet=$(basename "${libc:-$out}"/lib/*-linux-gnu)
relink
[ -z "${tools:-}" ] || patch_elf
patch_scripts
eval "$fixup"

# Nix looks for the names of the dependencies in the output: this file has them all.
mkdir -p nix-support
for path in $dependencies; do echo "$path"; done > nix-support/dependencies

# Modules name what they need as those of nixpkgs do.
for modules in share/perl5 "lib/$triplet/perl5" lib/python3/dist-packages; do
  [ ! -d "$modules" ] || cp nix-support/dependencies nix-support/propagated-build-inputs
done
