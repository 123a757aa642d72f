#!/usr/bin/env bash
# Builds the Python wheel with the profile and the target directory of everything else, installs it into a bare virtual
# environment, runs one line over a CSV file, and then the tests of the module.
#
#   tools/test-wheel.sh            build and test
#   tools/test-wheel.sh --stubs    build, and write crates/python/python/hfauto_pipe/__init__.pyi again
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repository/target}
export PIP_DISABLE_PIP_VERSION_CHECK=1

skip() {
    echo "NO WHEEL: $1, so the tests of the Python package are SKIPPED, it is not even built"
    exit 0
}

command -v python3 >/dev/null || skip "there is no python3"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || skip "python3 is older than 3.10"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# An environment of this script's packages, kept for the next time.
libraries=(pytest pyarrow polars duckdb pandas pyyaml tqdm)
tools=$HOME/.cache/hfauto-pipe-python-1
if [[ ! -e $tools/complete ]]; then
    rm -rf "$tools"
    python3 -m venv "$tools" || skip "python3 cannot make virtual environments"
    "$tools/bin/pip" install --quiet 'maturin>=1.16,<2' "${libraries[@]}" ||
        skip "maturin and pytest cannot be installed from a package index"
    touch "$tools/complete"
fi

# Compiled already where this runs after the tests of the crates. What follows compiles only the package itself.
cargo build --release --locked
"$tools/bin/maturin" build --release --locked --manifest-path crates/python/Cargo.toml --out "$folder" 2>&1 |
    tee "$folder/build.log"
if again=$(grep -E 'Compiling (arrow|datafusion|hfauto|hfauto-pipe) v' "$folder/build.log"); then
    echo "the wheel compiles these again, with other features than the program: $again" >&2
    exit 1
fi
wheel=$(echo "$folder"/hfauto_pipe-*.whl)
ls -l "$wheel"

if [[ ${1:-} == --stubs ]]; then
    "$tools/bin/pip" install --quiet --force-reinstall --no-deps "$wheel"
    "$tools/bin/python" crates/python/stubs.py
    exit 0
fi

# A machine with only Python: install, one line, a look at the result.
started=$SECONDS
python3 -m venv "$folder/bare"
"$folder/bare/bin/pip" install --quiet --no-index "$wheel"
mkdir "$folder/work"
(
    cd "$folder/work"
    cp "$repository/examples/data/reviews.csv" .
    export PATH=$folder/bare/bin:/usr/bin:/bin HF_HUB_OFFLINE=1
    hfauto-pipe embed reviews.csv --column text --limit 100 -o embeddings.csv
    python - <<'PYTHON'
import csv
import json

rows = list(csv.DictReader(open("embeddings.csv")))
print(rows[0]["id"], rows[0]["embedding"][:60], "…")
assert len(rows) == 100
assert len(json.loads(rows[0]["embedding"])) == 160

import hfauto_pipe

# The file has the shortest digits that give the same float32.
vector = hfauto_pipe.embed([row["text"] for row in rows]).to_pylist()[0]
assert all(abs(a - b) < 1e-7 for a, b in zip(vector, json.loads(rows[0]["embedding"]), strict=True))

print(hfauto_pipe.sql("SELECT count(*) AS rows FROM 'embeddings.csv'").to_pylist())
PYTHON
)
took=$((SECONDS - started))
echo "installed, run and looked at in $took s"
((took < 60)) || { echo "a first result must take less than a minute" >&2; exit 1; }

"$tools/bin/pip" install --quiet --force-reinstall --no-deps "$wheel"
"$tools/bin/python" -m pytest -q -p no:cacheprovider -rs crates/python/tests
