# List the recipes.
default:
    @just --list

# Run everything that CI runs.
check:
    .ci/run

# Run all tests.
test *args:
    cargo test --release {{args}}

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
