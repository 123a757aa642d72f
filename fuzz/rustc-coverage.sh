#!/bin/sh
# Compiles this workspace's crates, not their dependencies, with libFuzzer's coverage: `cargo` calls it with
# rustc and its arguments (RUSTC_WORKSPACE_WRAPPER). Needs no nightly toolchain.
exec "$@" --cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
