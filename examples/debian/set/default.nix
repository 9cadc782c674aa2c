# A package set of real Debian packages, named as in nixpkgs, to try and test with where there is neither nixpkgs nor a
# binary cache.
{
  # The platform that runs the packages, such as "aarch64-linux". If the set was made for this machine too, this machine builds
  # them, whatever they are for: it only unpacks and patches.
  system ? builtins.currentSystem,
  # What else a caller of nixpkgs may pass.
  ...
}:
let
  inherit (builtins) currentSystem pathExists;

  isMadeFor = platform: pathExists (./. + "/${platform}");
  builder = if isMadeFor currentSystem then currentSystem else system;

  debianFor =
    system: native:
    import ./debian.nix {
      inherit system native;
      parts =
        if isMadeFor system then
          ./. + "/${system}"
        else
          throw "This package set was not made for ${system}.";
      pool = ./pool;
      fixups = import ./fixups.nix;
    };
  made = debianFor system (if builder == system then null else debianFor builder null);
  debian = made.packages;

  demos = import ./demos.nix {
    inherit system;
    inherit (made) builder bootstrap;
  };

  # A Debian package with its license, an SPDX identifier, and what else its user may want to know: meta and passthru.
  package =
    name: license:
    {
      meta ? { },
      passthru ? { },
    }:
    let
      drv = debian.${name} or (throw "This package set was made without ${name} of Debian.");
    in
    drv
    // passthru
    // {
      inherit passthru;
      meta =
        drv.meta
        // {
          priority = 5;
          license = {
            spdxId = license;
            shortName = license;
            fullName = license;
            free = true;
          };
        }
        // meta;
    };

  # The same with a main program.
  program =
    main: name: license:
    package name license { meta.mainProgram = main; };
in
demos
// {
  _7zz = program "7zz" "7zip" "LGPL-2.1-or-later";
  bash = program "bash" "bash" "GPL-3.0-or-later";
  bashInteractive = program "bash" "bash" "GPL-3.0-or-later";
  bat = program "bat" "bat" "Apache-2.0";
  bc = program "bc" "bc" "GPL-3.0-or-later";
  busybox = package "busybox-static" "GPL-2.0-only" {
    meta = {
      mainProgram = "busybox";
      priority = 15;
    };
  };
  bzip2 = program "bzip2" "bzip2" "bzip2-1.0.6";
  cacert = package "ca-certificates" "MPL-2.0" { };
  coreutils = package "coreutils" "GPL-3.0-or-later" { };
  cowsay = program "cowsay" "cowsay" "GPL-3.0-only";
  curl = program "curl" "curl" "curl";
  dash = program "dash" "dash" "BSD-3-Clause";
  diffutils = package "diffutils" "GPL-3.0-or-later" { };
  fd = program "fd" "fd-find" "Apache-2.0";
  ffmpeg = program "ffmpeg" "ffmpeg" "GPL-2.0-or-later";
  figlet = program "figlet" "figlet" "BSD-3-Clause";
  file = program "file" "file" "BSD-2-Clause";
  findutils = program "find" "findutils" "GPL-3.0-or-later";
  fzf = program "fzf" "fzf" "MIT";
  gawk = program "gawk" "gawk" "GPL-3.0-or-later";
  git = program "git" "git" "GPL-2.0-only";
  glibc = package "libc6" "LGPL-2.1-or-later" { };
  gnugrep = program "grep" "grep" "GPL-3.0-or-later";
  gnum4 = program "m4" "m4" "GPL-3.0-or-later";
  gnumake = program "make" "make" "GPL-3.0-or-later";
  gnupatch = program "patch" "patch" "GPL-3.0-or-later";
  gnused = program "sed" "sed" "GPL-3.0-or-later";
  gnutar = program "tar" "tar" "GPL-3.0-or-later";
  graphviz = program "dot" "graphviz" "EPL-1.0";
  gzip = program "gzip" "gzip" "GPL-3.0-or-later";
  haproxy = program "haproxy" "haproxy" "GPL-2.0-or-later";
  hello = program "hello" "hello" "GPL-3.0-or-later";
  hostname = program "hostname" "hostname" "GPL-2.0-or-later";
  htop = program "htop" "htop" "GPL-2.0-or-later";
  iana-etc = package "netbase" "GPL-2.0-only" { };
  imagemagick = program "convert" "imagemagick" "ImageMagick";
  iperf3 = program "iperf3" "iperf3" "BSD-3-Clause";
  iproute2 = program "ip" "iproute2" "GPL-2.0-only";
  iputils = program "ping" "iputils-ping" "BSD-3-Clause";
  jq = program "jq" "jq" "MIT";
  less = program "less" "less" "GPL-3.0-or-later";
  lighttpd = program "lighttpd" "lighttpd" "BSD-3-Clause";
  lsof = program "lsof" "lsof" "Zlib";
  lua = program "lua" "lua5.4" "MIT";
  memcached = program "memcached" "memcached" "BSD-3-Clause";
  moreutils = package "moreutils" "GPL-2.0-or-later" { };
  mtr = program "mtr" "mtr-tiny" "GPL-2.0-only";
  nano = program "nano" "nano" "GPL-3.0-or-later";
  netcat = program "nc" "netcat-openbsd" "BSD-3-Clause";
  nginx = package "nginx" "BSD-2-Clause" {
    meta.mainProgram = "nginx";
    passthru.image = {
      cmd = [
        "nginx"
        "-g"
        "daemon off;"
      ];
      exposedports = [ "80/tcp" ];
    };
  };
  nodejs = program "node" "nodejs" "MIT";
  nodePackages = {
    recurseForDerivations = true;
    npm = program "npm" "npm" "Artistic-2.0";
  };
  openssh = program "ssh" "openssh-client" "BSD-2-Clause";
  openssl = program "openssl" "openssl" "Apache-2.0";
  patchelf = program "patchelf" "patchelf" "GPL-3.0-or-later";
  perl = program "perl" "perl" "GPL-1.0-or-later";
  perlPackages = {
    recurseForDerivations = true;
    JSON = package "libjson-perl" "GPL-1.0-or-later" { };
  };
  procps = program "ps" "procps" "GPL-2.0-or-later";
  psmisc = program "killall" "psmisc" "GPL-2.0-or-later";
  pv = program "pv" "pv" "Artistic-2.0";
  python3 = program "python3" "python3" "PSF-2.0";
  redis = package "redis" "BSD-3-Clause" {
    meta.mainProgram = "redis-server";
    passthru.image = {
      cmd = [
        "redis-server"
        "--protected-mode"
        "no"
      ];
      exposedports = [ "6379/tcp" ];
    };
  };
  ripgrep = program "rg" "ripgrep" "MIT";
  rsync = program "rsync" "rsync" "GPL-3.0-or-later";
  ruby = program "ruby" "ruby" "Ruby";
  screen = program "screen" "screen" "GPL-3.0-or-later";
  sl = program "sl" "sl" "MIT-advertising";
  socat = program "socat" "socat" "GPL-2.0-only";
  sqlite = program "sqlite3" "sqlite3" "blessing";
  stdenv.cc.cc.lib = package "libstdc++6" "GPL-3.0-or-later WITH GCC-exception-3.1" { };
  strace = program "strace" "strace" "LGPL-2.1-or-later";
  tcl = program "tclsh" "tcl" "TCL";
  tcpdump = program "tcpdump" "tcpdump" "BSD-3-Clause";
  tmux = program "tmux" "tmux" "ISC";
  tree = program "tree" "tree" "GPL-2.0-or-later";
  unzip = program "unzip" "unzip" "Info-ZIP";
  util-linux = package "util-linux" "GPL-2.0-or-later" { };
  vim = program "vim" "vim" "Vim";
  w3m = program "w3m" "w3m" "MIT";
  wget = program "wget" "wget" "GPL-3.0-or-later";
  which = program "which" "gnu-which" "GPL-3.0-or-later";
  xz = program "xz" "xz-utils" "GPL-2.0-or-later";
  zip = program "zip" "zip" "Info-ZIP";
  zlib = package "zlib1g" "Zlib" { };
  zstd = program "zstd" "zstd" "BSD-3-Clause";

  # Every Debian package under its own name.
  debian = debian // {
    recurseForDerivations = true;
  };
}
