# silc on NVIDIA GPUs: the torch of requirements.lock, which brings CUDA's libraries; the host brings the driver.
#
#   docker build -f docker/cuda.Dockerfile -t silc:cuda .
#   docker run --rm --gpus all --shm-size 16g -v "$PWD:/work" silc:cuda doctor
#   docker run --rm --gpus all --shm-size 16g -v "$PWD:/work" --entrypoint torchrun silc:cuda \
#     --nproc-per-node 8 -m silc train silc_c --data.train '/work/shards/{00000..00099}.tar' --out /work/out/run
FROM python:3.11-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Debian keeps no old versions, so a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake make nasm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /silc
COPY Makefile pyproject.toml requirements.lock MANIFEST.in README.md LICENSE ./
COPY silc silc
RUN make setup

# A C compiler stays: torch.compile and triton call it.
FROM python:3.11-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Debian keeps no old versions, so a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 silc
COPY --from=build /silc /silc
ENV PATH=/silc/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER 1000
WORKDIR /work
ENTRYPOINT ["silc"]
CMD ["--help"]
