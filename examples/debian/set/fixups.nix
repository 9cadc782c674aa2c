# What Debian's installation scripts, fixed places in the file system and alternatives would have done, by Debian's name of
# the package. The text is run by build.sh, which explains it.
{
  # The packages of the platform that builds, by the same names; null: that is the one that they are for.
  native,
}:
{
  bash = ''
    link bin/sh bash
  '';

  ca-certificates = ''
    mkdir -p etc/ssl/certs
    cat share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-bundle.crt
    rm -rf bin share/ca-certificates etc/ca-certificates etc/ca-certificates.conf
  '';

  cowsay = ''
    wrap cowsay COWPATH "$out/share/cowsay/cows"
  '';

  fd-find = ''
    link bin/fd fdfind
  '';

  bat = ''
    link bin/bat batcat
  '';

  figlet = ''
    mv bin/figlet-figlet bin/figlet
    wrap figlet FIGLET_FONTDIR "$out/share/figlet"
  '';

  file = ''
    wrap file MAGIC "$out/lib/file/magic.mgc"
  '';

  gawk = ''
    link bin/awk gawk
  '';

  git = ''
    wrap git \
      GIT_EXEC_PATH "$out/lib/git-core" \
      GIT_TEMPLATE_DIR "$out/share/git-core/templates" \
      PATH "$(bin_of basename grep sed)"
    link lib/git-core/git ../../libexec/git
    sed -i "s#/usr/lib/git-core#$out/lib/git-core#g" lib/git-core/git-sh-setup lib/git-core/git-sh-i18n
  '';

  gnu-which = ''
    link bin/which which.gnu
  '';

  # dot finds its plug-ins in a list that it makes itself. Where it does not run, that of the dot that does is taken.
  graphviz = ''
    wrap dot GVBINDIR "$out/lib/$triplet/graphviz"
    ${
      if native == null then
        "bin/dot -c"
      else
        ''cp ${native.graphviz}/lib/*/graphviz/config* "lib/$triplet/graphviz/"''
    }
  '';

  imagemagick = ''
    for program in animate compare composite conjure convert display identify import mogrify montage stream; do
      mv "bin/$program-im6.q16" "bin/$program"
      wrap "$program" \
        MAGICK_CONFIGURE_PATH "$out/etc/ImageMagick-6:$(echo "$out"/share/ImageMagick-6*)" \
        MAGICK_CODER_MODULE_PATH "$(echo "$out/lib/$triplet"/ImageMagick-*/modules-*/coders)" \
        MAGICK_FILTER_MODULE_PATH "$(echo "$out/lib/$triplet"/ImageMagick-*/modules-*/filters)"
    done
  '';

  # Of what is not patched only the libraries are of use, and the one locale that is not built in.
  libc6 = ''
    rm -rf bin etc
  '';

  "lua5.4" = ''
    link bin/lua lua5.4
  '';

  netcat-openbsd = ''
    link bin/nc nc.openbsd
  '';

  # What is compiled in leads to places where anyone may write and where no directory has to be made first.
  nginx = ''
    replace bin/nginx /var/lib/nginx/ /tmp/nginx-var-
    replace bin/nginx /var/log/nginx/ /tmp/nginx-log-
    replace bin/nginx /var/lock/nginx /tmp/nginx-lock
    replace bin/nginx /run/nginx.pid /tmp/nginx.pid
    cat > etc/nginx/nginx.conf <<CONF
    user root;
    worker_processes auto;
    error_log /dev/stderr;
    events {}
    http {
      include $out/etc/nginx/mime.types;
      access_log /dev/stdout;
      server {
        listen 80 default_server;
        root $out/share/nginx/html;
      }
    }
    CONF
    mkdir -p libexec
    mv bin/nginx libexec/nginx
    cat > bin/nginx <<SCRIPT
    #!$dash/bin/dash
    case " \$* " in
      *" -c "*) exec $out/libexec/nginx "\$@" ;;
      *) exec $out/libexec/nginx -c $out/etc/nginx/nginx.conf "\$@" ;;
    esac
    SCRIPT
    chmod +x bin/nginx
  '';

  # Each module is a store path of its own: they find each other through one directory of links.
  npm = ''
    mkdir -p libexec/modules
    for path in "$out" $reachable; do
      for module in "$path"/share/nodejs/*; do
        case $module in
          */@*)
            mkdir -p "libexec/modules/''${module##*/}"
            ln -sfn "$module"/* "libexec/modules/''${module##*/}/"
            ;;
          *) [ ! -e "$module" ] || ln -sfn "$module" libexec/modules/ ;;
        esac
      done
    done
    wrap npm NODE_PATH "$out/libexec/modules"
    wrap npx NODE_PATH "$out/libexec/modules"
    link usr/share/nodejs "$(dirname "$(locate /share/nodejs/acorn)")"
  '';

  # Debian's node reads parts of itself from /usr/share/nodejs, wherever it is: a merged profile has them there.
  nodejs = ''
    link usr/share/nodejs ../../share/nodejs
  '';

  openssl = ''
    wrap openssl OPENSSL_CONF "$out/lib/ssl/openssl.cnf" OPENSSL_MODULES "$(locate "/lib/$triplet/ossl-modules")"
  '';

  perl = ''
    wrap perl PERL5LIB "$(existing "$out/lib/$triplet/perl-base" "$out/lib/$triplet"/perl/5.*.* "$out"/share/perl/5.*.* "$out"/share/perl5)"
  '';

  ruby = ''
    wrap ruby3.1 RUBYLIB "$(existing "$out"/lib/ruby/vendor_ruby "$out"/lib/ruby/3.* "$out/lib/$triplet"/ruby/3.*)"
  '';

  tcl = ''
    wrap tclsh8.6 \
      TCL_LIBRARY "$out/share/tcltk/tcl8.6" \
      TCL8_6_TM_PATH "$out/share/tcltk/tcl8.6/tcl8"
  '';

  tmux = ''
    wrap tmux LOCPATH "$libc/lib/locale" LC_CTYPE C.UTF-8
  '';

  vim = ''
    mv bin/vim.basic bin/vim
    wrap vim VIM "$out/share/vim" VIMRUNTIME "$(echo "$out"/share/vim/vim??)"
    link bin/vi vim
  '';
}
