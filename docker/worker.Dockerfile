# syntax=docker/dockerfile:1
# saccade for training on NVIDIA GPUs. The host needs NVIDIA's driver and container toolkit; CUDA comes with the wheels.
#   docker build --file docker/worker.Dockerfile --tag saccade-worker .
# The Python of constraints.txt.
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/tmp

# torch.compile calls a C compiler; bsdtar unpacks the RAR archives that UCF101 and HMDB51 come in.
# Debian keeps one version of a package, its newest, so a pin would only break the build: the base image's tag has to do.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libarchive-tools \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /work
COPY constraints.txt ./
# On x86-64 these are PyPI's builds for CUDA. A layer of their own, for they are most of the image.
RUN pip install --only-binary :all: --constraint constraints.txt torch torchvision

COPY setup.cfg pyproject.toml README.md ./
COPY saccade saccade
# faiss-gpu and faiss-cpu provide the same module, so one has to go before the other comes.
RUN pip install --constraint constraints.txt . \
    && pip uninstall --yes faiss-cpu \
    && pip install --only-binary :all: --constraint constraints.txt \
        faiss-gpu-cu12==1.14.1.post1 nvidia-cublas-cu12==12.9.1.4 nvidia-cuda-runtime-cu12==12.9.79

COPY experiments experiments
COPY sweeps sweeps

ENTRYPOINT ["saccade"]
