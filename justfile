# List the recipes.
default:
    @just --list

# Run everything that CI runs.
check:
    .ci/run

# Run all tests.
test *args:
    cargo test --release {{args}}

# Build the Python wheel, and test it in a bare virtual environment.
wheel:
    tools/test-wheel.sh

# Write the type stubs of the Python package again.
stubs:
    tools/test-wheel.sh --stubs

# Build a release: the program with completions and man pages, and the wheel; slow.
dist *args:
    tools/dist.sh {{args}}

# Kill a job of fifty units at two hundred moments, and resume each run.
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

# Compare hfauto-pipe with sentence-transformers and ONNX Runtime over the same rows; installs them into a cache folder.
bench-peers *args:
    benches/peers/run.sh {{args}}

# Compare the kernels with the measured peak of a core.
bench-kernels:
    cargo bench -p hfauto --bench kernels

# Pipeline tax: compare a whole run with the bare model loop over the same batches.
bench:
    cargo bench --bench pipeline_tax

# `run --cluster` and `--join` beside `run`: overhead, scaling, a slow executor, memory, requests (benches/cluster.py)
bench-cluster *args:
    cargo build --release
    python3 benches/cluster.py "${CARGO_TARGET_DIR:-target}/release/hfauto-pipe" {{args}}

# Fuzz one target or all, ten minutes each: just fuzz weights 60
fuzz target="all" seconds="600":
    fuzz/run.sh {{target}} {{seconds}}

# Test the CPU kernels under AddressSanitizer; needs a nightly toolchain.
sanitize *args:
    tools/sanitize/run.sh {{args}}

# Build the program for NVIDIA GPUs, with a CUDA toolkit from PyPI if the machine has none.
cuda-build *args:
    tools/with-cuda.sh cargo build --release --locked --features cuda {{args}}

# Run the kernel, golden and invariance tests on a GPU, in each dtype; skipped with a notice without one.
test-cuda:
    tools/with-cuda.sh tools/test-cuda.sh

# Compare hfauto-pipe with sentence-transformers and transformers on a GPU; needs torch with CUDA in $PYTHON.
bench-gpu *args:
    tools/with-cuda.sh benches/gpu/run.sh {{args}}
