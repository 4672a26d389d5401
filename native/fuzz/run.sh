#!/bin/sh
# Fuzzes one target with coverage on stable Rust: run.sh TARGET [SECONDS]. New inputs go to work/, findings to artifacts/.
set -eu
cd "$(dirname "$0")"
target=$1
seconds=${2:-60}
triple=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes, minus the address sanitizer, which needs nightly. --target keeps it off build scripts.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
  -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-trace-compares \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table"
cargo build --quiet --release --target "$triple" --bin "$target"
mkdir -p "work/$target" "artifacts/$target"
exec "${CARGO_TARGET_DIR:-target}/$triple/release/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 \
  -max_len=8192 -artifact_prefix="artifacts/$target/" "work/$target" "corpus/$target"
