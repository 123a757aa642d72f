#!/usr/bin/env bash
# The tests that compute on a card: kernels once, then goldens and invariance in f32, f16 and bf16. TESTS names a test
# program that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! nvidia-smi >/dev/null 2>&1; then
    echo "SKIPPED: no NVIDIA card here"
    exit 0
fi
run() {
    if [[ -n ${TESTS:-} ]]; then
        CARGO_MANIFEST_DIR=$PWD "$TESTS" "$@"
    else
        cargo test --release --locked --features cuda --test it -- "$@"
    fi
}
failed=0
run cuda:: || failed=1
export HFAUTO_TEST_DEVICE=cuda
for dtype in f32 f16 bf16; do
    echo "== $dtype"
    # Tokens that are chosen differ where two are nearly as likely: generation is compared in f32.
    generated=()
    [[ $dtype == f32 ]] && generated=(generation::)
    HFAUTO_TEST_DTYPE=$dtype run parity:: heads:: invariance:: vit:: t5:: "${generated[@]}" || failed=1
done
exit $failed
