# List the recipes.
default:
    @just --list

# Everything that CI runs.
check:
    .ci/run

# All tests.
test *args:
    cargo test --release {{args}}

# Kill runs at two hundred times over a job of fifty units, and go on with each.
kill:
    HFAUTO_KILLS=200 cargo test --release --test it -- units::a_run_that_is_killed

# Accept changed snapshots after reading them.
snap:
    INSTA_UPDATE=always cargo test --release --test it

# Make the goldens again with transformers and sentence-transformers (see tests/golden/README.md).
golden *args:
    python3 tests/golden/make_goldens.py {{args}}

# Refresh the JSON Schema of pipeline files.
schema:
    cargo run --release -- schema > pipelines/schema.json

# hfauto-pipe beside sentence-transformers and ONNX Runtime over the same rows; installs them into a cache folder.
bench-peers *args:
    benches/peers/run.sh {{args}}

# The kernels under the models against the measured peak of a core.
bench-kernels:
    cargo bench -p hfauto --bench kernels

# Pipeline tax: a whole run against the bare model loop over the same batches.
bench:
    cargo bench --bench pipeline_tax

# Fuzz one target or all, ten minutes each: just fuzz weights 60
fuzz target="all" seconds="600":
    fuzz/run.sh {{target}} {{seconds}}

# The tests of the CPU kernels under AddressSanitizer; needs a nightly toolchain.
sanitize *args:
    tools/sanitize/run.sh {{args}}

# Build the program for NVIDIA GPUs, with a CUDA toolkit from PyPI where the machine has none.
cuda-build *args:
    tools/with-cuda.sh cargo build --release --locked --features cuda {{args}}

# The kernels, the goldens and the invariance tests on a GPU, in each dtype; skipped loudly without one.
test-cuda:
    tools/with-cuda.sh tools/test-cuda.sh

# hfauto-pipe beside sentence-transformers and transformers on a GPU; needs torch with CUDA in $PYTHON.
bench-gpu *args:
    tools/with-cuda.sh benches/gpu/run.sh {{args}}
