#!/usr/bin/env bash
# hfauto-pipe on a card beside sentence-transformers and transformers: run.sh [options of bench.py].
# PYTHON (default python3) must have torch with CUDA, sentence-transformers and pyarrow; the program is built with
# `--features cuda` unless PROGRAM names one.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! nvidia-smi >/dev/null 2>&1; then
    echo "SKIPPED: no NVIDIA card here"
    exit 0
fi
if [[ -z ${PROGRAM:-} ]]; then
    cargo build --release --locked --features cuda
    PROGRAM=${CARGO_TARGET_DIR:-target}/release/hfauto-pipe
fi
exec "${PYTHON:-python3}" benches/gpu/bench.py --program "$PROGRAM" --folder "${FOLDER:-$(mktemp -d)}" "$@"
