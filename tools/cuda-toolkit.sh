#!/usr/bin/env bash
# Puts a CUDA 13.0 toolkit together from the wheels that NVIDIA publishes on PyPI, for machines that have none: the
# compiler, headers, the libraries to link with, and a stand-in for the driver's library, which only machines with a card
# have. No card is needed, and nothing outside the folder is touched.
#
#     tools/cuda-toolkit.sh [FOLDER]    # default ~/.cache/hfauto-pipe-cuda-13.0, about 1.8 GB with the wheels
#     source FOLDER/env
#     cargo build --release --features cuda
#
# CUDA_COMPUTE_CAP names the cards that candle's kernels are compiled for, 90 (H100, H200) unless it is set: they run on
# that card and newer ones. The program needs a driver of version 580 or newer, and the CUDA 13 libraries cuBLAS,
# cuRAND and NVRTC on its library path.
set -euo pipefail

folder=${1:-$HOME/.cache/hfauto-pipe-cuda-13.0}
packages=(
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.0.2.14 nvidia-curand==10.4.5.25
)

toolkit=$folder/unpacked/nvidia/cu13
if [[ ! -e $folder/complete ]]; then
    mkdir -p "$folder/wheels"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder/wheels" "${packages[@]}"
    rm -rf "$folder/unpacked"
    for wheel in "$folder"/wheels/*.whl; do
        python3 -m zipfile -e "$wheel" "$folder/unpacked"
    done
    # Archives of zipfile keep no modes, and wheels no links without a version.
    find "$toolkit/bin" "$toolkit/nvvm/bin" -type f -exec chmod +x {} +
    for library in "$toolkit"/lib/lib*.so.*; do
        ln -sf "$(basename "$library")" "${library%%.so.*}.so"
    done
    ln -sfn lib "$toolkit/lib64"
    # Every name of the driver's interface, as functions that fail: enough to link with, never to run with.
    names=$(
        {
            cat "$toolkit/include/cuda.h"
            cat "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-*/src/driver/sys/mod.rs 2>/dev/null || true
        } | grep -ohE '\bcu[A-Z][A-Za-z0-9_]*' | sort -u | grep -vE '_(st|enum|t|fn)$'
    )
    for name in $names; do echo "int $name(void) { return 999; }"; done |
        "${CC:-cc}" -w -x c -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$toolkit/lib/libcuda.so" -
    touch "$folder/complete"
fi

cat >"$folder/env" <<ENV
export CUDA_HOME=$toolkit CUDA_PATH=$toolkit CUDA_ROOT=$toolkit CUDA_TOOLKIT_ROOT_DIR=$toolkit
export PATH=$toolkit/bin:\$PATH
export LIBRARY_PATH=$toolkit/lib\${LIBRARY_PATH:+:\$LIBRARY_PATH}
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90}
ENV
"$toolkit/bin/nvcc" --version | tail -1
echo "source $folder/env"
