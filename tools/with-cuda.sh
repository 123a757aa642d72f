#!/usr/bin/env bash
# Runs a command where the CUDA toolkit is on the paths: the system's, or one put together from PyPI (cuda-toolkit.sh).
set -euo pipefail
folder=$HOME/.cache/hfauto-pipe-cuda-13.0
if ! command -v nvcc >/dev/null; then
    [[ -e $folder/complete ]] || "$(dirname "$0")/cuda-toolkit.sh" "$folder"
    # shellcheck source=/dev/null
    source "$folder/env"
    # What is built finds cuBLAS, cuRAND and NVRTC there; the driver's library comes with the driver alone.
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$CUDA_HOME/lib
fi
exec "$@"
