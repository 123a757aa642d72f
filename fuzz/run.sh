#!/usr/bin/env bash
# Fuzzes one target, or all in turn: fuzz/run.sh [TARGET] [SECONDS]. New inputs stay in fuzz/found (not in the
# repository); fuzz/corpus is what it starts from. Ends with an error at the first crash, whose input is then in
# fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=(pipeline config tokenizer tokenizer_json chat_template model_config manifest weights csv jsonl parquet arrow_ipc image)
[[ ${1:-all} == all ]] || targets=("$1")
seconds=${2:-600}
target_dir=${CARGO_TARGET_DIR:-target}

RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/rustc-coverage.sh cargo build --release --locked -p hfauto-pipe-fuzz --bins
for target in "${targets[@]}"; do
    mkdir -p "fuzz/found/$target" "fuzz/artifacts/$target"
    seeds=("fuzz/corpus/$target")
    # The goldens have a file of every kind.
    [[ $target != image ]] || seeds=(tests/golden/pictures tests/golden/bitmaps)
    echo "== $target, $seconds s"
    # What grows in memory with its length shows only above the length that finds most else.
    max_len=65536
    [[ $target != weights ]] || max_len=4194304
    "$target_dir/release/$target" "fuzz/found/$target" "${seeds[@]}" \
        -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" \
        -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=20 -max_len="$max_len" -print_final_stats=1 -verbosity=0
done
