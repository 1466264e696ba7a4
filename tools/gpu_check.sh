#!/bin/bash
# Checks of the training on one GPU, at most 8 minutes: one step of each paper stage with its peak memory against the
# plan, sampling speed beside diffusers' network, torch.compile, FSDP2, resuming. Not yet run on a GPU.
#
#   tools/gpu_check.sh prepare           here: fill build/gpu_check/ (git-ignored) with what the GPU machine needs
#   tools/gpu_check.sh                   on the GPU machine, in a copy of build/gpu_check; results in $OUT
#   tools/gpu_check.sh --cpu [MODEL ...] the same lines at size=debug, on this machine
#
# The GPU machine needs torch, numpy and lightning, and no network. The folder holds code, configurations and wheels, at
# most 64 MiB. PYTHON_VERSION=3.12 prepares for another Python than this one. Results: gpu_check.json, gpu_check.log.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
WHEELS="hydra-core omegaconf diffusers transformers huggingface_hub tokenizers safetensors regex einops timm pillow
 importlib_metadata zipp rich markdown-it-py mdurl Pygments requests urllib3 idna charset-normalizer certifi httpx2
 httpcore2 anyio h11 click truststore typer shellingham annotated-doc PyYAML"
SOURCES="antlr4-python3-runtime" # which has no wheel
MAX_BYTES=$((64 << 20))

pinned() { # NAME==VERSION of what is installed here
    $PYTHON -c 'import sys; from importlib.metadata import version; print(*(f"{n}=={version(n)}" for n in sys.argv[1:]))' "$@"
}

if [ "${1:-}" = prepare ]; then
    set -e
    folder=build/gpu_check
    rm -rf "$folder"
    mkdir -p "$folder/wheels" "$folder/tools"
    cp -r zoo conf "$folder"
    cp tools/gpu_check.sh tools/gpu_check.py tools/measure_plan.py "$folder/tools"
    find "$folder" -name __pycache__ -prune -exec rm -rf {} +
    platforms=
    for glibc in 2_28 2_27 2_17 2014; do platforms="$platforms --platform manylinux_${glibc}_x86_64"; done
    $PYTHON -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
        --python-version "${PYTHON_VERSION:-$($PYTHON -c 'import sys; print("%d.%d" % sys.version_info[:2])')}" \
        ${platforms/manylinux_2014/manylinux2014} --dest "$folder/wheels" $(pinned $WHEELS)
    $PYTHON -m pip wheel --quiet --no-deps --wheel-dir "$folder/wheels" $(pinned $SOURCES)
    bytes=$(du -sb "$folder" | cut -f1)
    echo "$folder: $bytes bytes"
    [ "$bytes" -le $MAX_BYTES ] || { echo "more than $MAX_BYTES" >&2; exit 1; }
    exit
fi

OUT=${OUT:-build/gpu_check_results}
mkdir -p "$OUT"
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
for wheel in wheels/*.whl; do
    [ -f "$wheel" ] && $PYTHON -m zipfile -e "$wheel" "$packages"
done
export PYTHONPATH="$PWD:$packages${PYTHONPATH:+:$PYTHONPATH}" PYTORCH_NVML_BASED_CUDA_CHECK=1 HF_HUB_OFFLINE=1
export PYTHONDONTWRITEBYTECODE=1
limit=470
[ "${1:-}" = --cpu ] && limit=0 # none
timeout $limit $PYTHON tools/gpu_check.py "$OUT" "$@" 2>&1 | tee "$OUT/gpu_check.log"
exit "${PIPESTATUS[0]}"
