#!/usr/bin/env bash
# The tests of the kernels in crates/hfauto/src/nn/cpu under AddressSanitizer, which sees a read or a write beyond what a pointer may
# reach; needs a nightly toolchain. The standard library is not instrumented, for that would need its source.
set -euo pipefail
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-../../target}/sanitize
exec cargo +nightly test --release --locked --target "$host" -p hfauto-pipe-sanitize "$@"
