# Stands for a download. Run by busybox.
# shellcheck shell=sh disable=SC2154 # the derivation's attributes are variables
echo source >"$out"
