#!/usr/bin/env bash
# Checks what Markdown names: each link to a file, each path in backticks that looks like one of the repository, each
# test and fuzz target; and its lines, of 100 columns at most but for tables and code. Checks the pages that other files
# name. Prints what is wrong by file and line, and fails if there is anything.
#
# Usage: scripts/check-docs.sh
# Needs: git, perl.
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck disable=SC2016 # Perl's variables
git ls-files -z --cached --others --exclude-standard '*.md' | LC_ALL=C.UTF-8 xargs -0 perl -CSDA -e '
  use strict;
  use warnings;

  my %there = map { $_ => 1 } split /\0/, `git ls-files -z --cached --others --exclude-standard`;
  for my $file (keys %there) {
    delete $there{$file} unless -e $file;
  }
  for my $file (keys %there) {
    while ($file =~ s{/[^/]+$}{}) { $there{$file} = 1 }
  }
  my %tests = map { $_ => 1 } `git grep -hoE "^func (Test|Fuzz|Benchmark|Example)[A-Za-z0-9_]*" -- "*_test.go"` =~ /(\w+)$/mg;
  my %top = map { m{^([^/]+)} ? ($1 => 1) : () } keys %there;
  my $faults = 0;

  # plain resolves . and .. in a path.
  sub plain {
    my @parts;
    for my $part (split m{/}, shift) {
      if ($part eq "..") { pop @parts } elsif ($part ne "." && $part ne "") { push @parts, $part }
    }
    return join "/", @parts;
  }

  sub fault { my ($file, $what) = @_; print "$file:$.: $what\n"; $faults++ }

  for my $file (@ARGV) {
    next unless -e $file;
    open my $lines, "<", $file or die "$file: $!";
    my $dir = $file =~ m{^(.*)/} ? $1 : "";
    my $code = 0;
    while (my $line = <$lines>) {
      chomp $line;
      $code = !$code if $line =~ /^```/;
      next if $code || $line =~ /^```/;
      fault($file, "has " . length($line) . " columns") if length $line > 100 && $line !~ /^\|/ && $line !~ /^    /;
      while ($line =~ /\]\(([^)\s#]+)[^)]*\)/g) {
        my $target = $1;
        next if $target =~ /^[a-z]+:/;
        my $path = plain("$dir/$target");
        fault($file, "links to $target, which is not there") unless $path eq "" || $there{$path};
      }
      while ($line =~ /`([^`]+)`/g) {
        my $path = $1 =~ s{/$}{}r;
        # A path: below a folder of the repository, or a file with an ending that only it has. Placeholders are in capitals.
        next if $path !~ m{^[\w.@-]+(/[\w.@-]+)*$} || $path =~ /[A-Z]{3,}\.|^[A-Z]+$|\.\.\./;
        my $named = $path =~ m{^([^/]+)/} ? $top{$1} && $1 !~ /^build$/ : $path =~ /\.(go|md|sh|awk)$/;
        next unless $named;
        next if $there{$path} || $there{plain("$dir/$path")};
        next if $path !~ m{/} && grep { m{(^|/)\Q$path\E$} } keys %there;
        fault($file, "names $path, which is not there");
      }
      while ($line =~ /\b((?:Test|Fuzz|Benchmark)[A-Z]\w*)\b/g) {
        fault($file, "names $1, which is no test") unless $tests{$1};
      }
    }
    close $lines;
  }
  for (split /\n/, `git grep -nIE "docs/(decisions/)?[a-z-]+[.]md" -- ":!*.md"`) {
    my ($where, $text) = /^(.*?:\d+):(.*)$/;
    my ($page) = $text =~ m{(?<![\w/])(docs/(?:decisions/)?[a-z-]+\.md)};
    next if !$page || $there{$page};
    print "$where: names $page, which is not there\n";
    $faults++;
  }
  exit($faults > 0);
'
