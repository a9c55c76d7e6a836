#!/bin/sh
# Makes the image's environment, .venv, in the repository's folder; Dockerfile and apptainer.def run it.
# TORCH: the build of PyTorch, as for ./run. Versions: requirements.txt (out of uv.lock) and envs/kubernetes.txt.
set -eu
cd -- "$(dirname -- "$0")/../.."
export TORCH="${TORCH:-cpu}" PIP_NO_CACHE_DIR=1
./run python -m pip install --quiet --disable-pip-version-check --requirement envs/kubernetes.txt
./run python -m pip check
install -m 755 envs/image/pip .venv/bin/pip
