#!/bin/sh
# The main job on the built-in street scenes: search, train the winner, export it, look at a picture. Called by `make demo`.
# The backbone starts from scratch, for nothing is downloaded; a small residual network learns most in three minutes.
set -eu
out=${1:-demo}
rm -rf "$out"
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say nasseg search tiny --data synthetic --backbone resnet10t --budget "macs=330M,params=7M" --size 96x128 \
  --trials 8 --trainer proxy --set trainer.iterations=120 --concurrency 2 --out "$out/search"
say nasseg train "$out/search:best" --trainer full --set trainer.iterations=240 --set trainer.lr=3e-3 \
  --set trainer.class_weights=sqrt_median_frequency --set trainer.cache=true --set trainer.val_every=80 --out "$out/run"
say nasseg export "$out/run" --out "$out/bundle"
say nasseg predict "$out/bundle" --data synthetic --number 1 --out "$out/pictures"

printf '\nThe study       %s\nThe trained run %s\nThe bundle      %s\nThe picture     %s\n' \
  "$out/search" "$out/run" "$out/bundle" "$(ls "$out"/pictures/*overlay.png | head -n 1)"
