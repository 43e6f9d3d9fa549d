# silc on CPUs: torch without CUDA, every other package by its hash.
#
#   docker build -f docker/cpu.Dockerfile -t silc:cpu .
#   docker run --rm -v "$PWD:/work" silc:cpu train silc_c-tiny --out /work/out/run
FROM python:3.11-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# simplejpeg and others have no wheels for some processors, and are then compiled.
# Debian keeps no old versions, so a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake make nasm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /silc
COPY Makefile pyproject.toml requirements.lock MANIFEST.in README.md LICENSE ./
COPY silc silc
RUN make setup TORCH=cpu

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 silc
COPY --from=build /silc /silc
ENV PATH=/silc/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER 1000
WORKDIR /work
ENTRYPOINT ["silc"]
CMD ["--help"]
