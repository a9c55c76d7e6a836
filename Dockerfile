# The image that profiles/kubernetes runs, and of use to Docker and Apptainer: docs/cluster.md, Image.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm

# cpu, cuda (PyPI's build, which brings CUDA; the node brings the driver), or a build of PyTorch's own index, as cu126
ARG TORCH=cpu
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

# git: the commit that run.json names. Debian's versions change under their names, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /opt/deep-rl-replications \
    && useradd --uid 1000 --create-home agent \
    && install --directory --owner=1000 /workdir

WORKDIR /opt/deep-rl-replications
COPY run requirements.txt ./
COPY envs envs
RUN TORCH=${TORCH} sh envs/image/build.sh
COPY . .

ENV PATH=/opt/deep-rl-replications/.venv/bin:${PATH} \
    PYTHONPATH=/opt/deep-rl-replications \
    PYTHONDONTWRITEBYTECODE=1
USER 1000
WORKDIR /workdir
CMD ["bash"]
