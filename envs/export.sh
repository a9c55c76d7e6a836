#!/bin/sh
# Writes requirements.txt and envs/dev.txt from uv.lock, which is the one source of versions. Run it after `uv lock`.
# Then envs/kubernetes.txt, envs/slurm.txt and envs/tests.txt, which have to fit them: no training depends on those packages, so they stand in
# no lock that a run is known by.
#
# torch's CUDA packages are cut: torch's own exact pins bring them where PyPI's Linux build of torch is installed, and
# nothing brings them where a CPU build is, so one file serves both. Hashes stay in uv.lock: with them here pip would
# refuse a CPU build.
set -eu
cd -- "$(dirname -- "$0")/.."
{
    echo "# Written by envs/export.sh from uv.lock; do not edit."
    "${UV:-uv}" export --frozen --no-dev --no-hashes --no-annotate --no-header \
        --prune cuda-bindings --prune cuda-toolkit --prune nvidia-cudnn-cu13 --prune nvidia-cusparselt-cu13 \
        --prune nvidia-nccl-cu13 --prune nvidia-nvshmem-cu13 --prune triton
} > requirements.txt.new
mv requirements.txt.new requirements.txt
{
    echo "# Written by envs/export.sh from uv.lock; do not edit. What the tests in a real browser need beside requirements.txt."
    "${UV:-uv}" export --frozen --only-dev --no-hashes --no-annotate --no-header
} > envs/dev.txt.new
mv envs/dev.txt.new envs/dev.txt
pins() {
    "${UV:-uv}" pip compile --quiet --universal --python-version 3.11 --no-annotate --no-emit-index-url \
        --custom-compile-command envs/export.sh --constraints requirements.txt --constraints envs/dev.txt "$@"
}
pins envs/kubernetes.in -o envs/kubernetes.txt
pins envs/slurm.in -o envs/slurm.txt
pins --constraints envs/kubernetes.txt envs/tests.in -o envs/tests.txt
