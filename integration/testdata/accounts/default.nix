# Packages that bring accounts and other files of /etc, and that run as users. A static busybox is put into bin.
{
  # The platform that builds the packages.
  system ? builtins.currentSystem,
  # What a caller of nixpkgs may pass.
  ...
}:
let
  inherit (builtins) readFile;

  # busybox looks at the name that it is called by.
  b = "${./bin}/busybox";

  # A package that shell text makes; $b is busybox.
  package =
    name: script:
    derivation {
      name = "${name}-1.0";
      inherit system b;
      builder = b;
      args = [
        "sh"
        "-euc"
        "$b mkdir -p $out/etc; ${script}"
      ];
      salt = readFile ./salt;
    }
    // {
      pname = name;
    };
  runsAs = user: name: package name "$b mkdir $out/bin; $b ln -s $b $out/bin/id" // {
    meta.mainProgram = "id";
    passthru.image.user = user;
  };
  # A file that is a store path by itself, as writeText makes it.
  file =
    name: text:
    derivation {
      inherit name system text;
      builder = b;
      args = [
        "sh"
        "-euc"
        ''echo "$text" > $out''
      ];
    };
  users = file "users" ''
    root:x:0:0:root user:/var/empty:/bin/sh
    app:x:1000:1001:app:/srv:/bin/sh
    nobody:x:65534:65534:nobody:/var/empty:/bin/sh'';
  groups = file "groups" ''
    root:x:0:
    app:x:1001:
    data:x:2000:member'';
in
{
  busybox = package "busybox" ''
    $b mkdir $out/bin $out/sbin
    $b cp $b $out/bin/busybox
    for i in cat echo env id ls mkdir sh sleep touch; do $b ln -s busybox $out/bin/$i; done
    printf "#!%s sh\necho hello\n" $b > $out/sbin/hello
    $b chmod +x $out/sbin/hello
  '';

  # Programs that print their names.
  names = package "names" ''
    $b mkdir $out/bin
    for i in one two three four five six; do
      printf '#!%s sh\necho %s\n' $b $i > $out/bin/$i
      $b chmod +x $out/bin/$i
    done
  '';

  # As fakeNss of nixpkgs: files at the end of a chain of links.
  fakenss = package "fakenss" ''
    $b mkdir -p $out/var/empty
    $b ln -s ${users} $out/etc/passwd
    $b ln -s ${groups} $out/etc/group
    echo "127.0.0.1 localhost fakenss" > $out/etc/hosts
    echo "nameserver 192.0.2.1" > $out/etc/resolv.conf
    echo fakenss > $out/etc/hostname
    echo "hosts: files" > $out/etc/nsswitch.conf
  '';

  # Another package's account, beside those.
  member = package "member" ''
    echo "member:x:3000:3000::/:/bin/sh" > $out/etc/passwd
    echo "member:!:1::::::" > $out/etc/shadow
    echo "member:100000:65536" > $out/etc/subuid
  '';

  asroot = runsAs "root" "asroot";
  asnobody = runsAs "nobody" "asnobody";
  asghost = runsAs "ghost" "asghost";
  asghosts = runsAs "nobody:ghosts" "asghosts";
  asnumber = runsAs "12345" "asnumber";
  asapp = package "asapp" ''
    $b mkdir $out/bin
    $b ln -s $b $out/bin/id
    $b cp ${users} $out/etc/passwd
    $b cp ${groups} $out/etc/group
  '' // {
    meta.mainProgram = "id";
    passthru.image.user = "app";
  };
  asmember = package "asmember" ''
    $b mkdir $out/bin
    $b ln -s $b $out/bin/id
    echo "member:x:3000:3000::/:/bin/sh" > $out/etc/passwd
    $b cp ${groups} $out/etc/group
  '' // {
    meta.mainProgram = "id";
    passthru.image.user = "member";
  };

  # A file that no image can have.
  large = package "large" "$b dd if=/dev/zero bs=1048577 count=1 of=$out/etc/passwd";

  # What an operator may include.
  settings = package "settings" "" // {
    passthru.image = {
      env = {
        FROM = "settings";
        ONLY = "settings";
      };
      labels.from = "settings";
      user = "ghost";
      cmd = [ "/bin/none" ];
    };
  };
  asked = package "asked" "" // {
    passthru.image = {
      env.FROM = "asked";
      labels.asked = "asked";
    };
  };
  faulty = package "faulty" "" // {
    passthru.image.colour = "blue";
  };
}
