#!/bin/sh
# The main job on the built-in street scenes: search, train the winner, export it, look at a picture. Called by `make demo`.
set -eu
out=${1:-demo}
rm -rf "$out"
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say nasseg search tiny --data synthetic --backbone mobilenetv3_small_050 --budget "macs=60M,params=1.2M" --size 96x128 \
  --trials 8 --trainer proxy --concurrency 2 --out "$out/search"
say nasseg train "$out/search:best" --data synthetic --trainer full --size 96x128 --set trainer.iterations=300 --out "$out/run"
say nasseg export "$out/run" --out "$out/bundle"
say nasseg predict "$out/bundle" --data synthetic --number 1 --out "$out/pictures"

printf '\nThe study       %s\nThe trained run %s\nThe bundle      %s\nThe picture     %s\n' \
  "$out/search" "$out/run" "$out/bundle" "$(ls "$out"/pictures/*overlay*.png | head -n 1)"
