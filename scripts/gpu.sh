#!/usr/bin/env bash
# What a GPU is for, ready before there is one: the machine may be bare, far, without a network, and at hand for minutes.
#
#   scripts/gpu.sh --dry DATA [OUT]    print the plan and the sizes; nothing is run or written
#   scripts/gpu.sh DATA [OUT]          here: pack OUT/payload.tar.gz (out/gpu): the last commit, the wheels that are
#                                      missing there, DATA/pretrain64 and DATA/segmentation; refused above 60 MB
#   there:  mkdir gpu && tar xf payload.tar.gz -C gpu && cd gpu
#   scripts/gpu.sh --call 1 [RESULTS]  tests, benchmark, ablation: at most 9 minutes
#   scripts/gpu.sh --call 2 [RESULTS]  real photographs, profile: at most 4 minutes
#
# Each part has a time limit of its own; one that fails or is cut does not stop the next. RESULTS/call-N.tar.gz (RESULTS
# is out/gpu) holds JSON and logs and is whole after every part. Back home, in its unpacked folder:
#   python scripts/ablation.py table call-1/ablation
#
# $PYTHON   python with torch >= 2.11, torchvision, timm, transformers, safetensors, tokenizers and tensorboard (python3)
# TINY=1    the same parts in seconds, on a CPU
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ "${1:-}" != --call ]; then
  exec "$python" scripts/gpu.py pack "$@"
fi
shift
# Wheels are zip files, so a machine without pip will do.
if [ -d wheels ] && [ ! -d site ]; then
  for wheel in wheels/*.whl; do "$python" -m zipfile -e "$wheel" site.part; done
  mv site.part site
fi
[ -d site ] && export PYTHONPATH=$PWD/site:$PYTHONPATH
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
exec "$python" scripts/gpu.py call "$@" ${TINY:+--tiny}
