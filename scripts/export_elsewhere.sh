#!/usr/bin/env bash
# A trained model goes out and answers alike elsewhere: trained here, exported, opened by open_clip and by transformers,
# and scored by CLIP_benchmark in an environment of its own. Part of .ci/run (`make elsewhere`).
#
#   scripts/export_elsewhere.sh [OUT]        # out/elsewhere
#
# $SILC_DATA   folder with classification/cifar10/{train,test}/<class>/*.jpg and classes.txt: 200 photographs to train
#              on and 400 others to answer for. Without it generated scenes take their place, which is said.
# $SILC, $PYTHON, $UV   silc, its python and uv, where they are not on the path
#
# Cost: 2 minutes on 2 cores of an AMD EPYC; the second environment takes seconds where uv's cache has the first one's
# packages, else a download of theirs. Numbers: docs/results.md.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/elsewhere}
read -ra silc <<<"${SILC:-silc}"
python=${PYTHON:-python}
uv=${UV:-uv}
# Towers so small are as quick on one thread, and two wait for each other where something else runs too.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$out"
rm -rf "$out"/{pairs,scenes,run,export,scored} # of an earlier time; the environment stays

if [ -n "${SILC_DATA:-}" ]; then
  set_dir=$SILC_DATA/classification/cifar10
  data=(--data.train "$out/pairs" --train.duration "600 steps")
  # A folder of pairs: the photographs and, as captions, the names of their classes.
  "$python" - "$set_dir" "$out/pairs" <<'PYTHON'
import json, shutil, sys
from pathlib import Path

source, out = map(Path, sys.argv[1:])
shutil.copytree(source / "train", out)
folders = sorted(folder for folder in out.iterdir() if folder.is_dir())
names = (source / "classes.txt").read_text().splitlines()
with (out / "captions.jsonl").open("w") as rows:
    for name, folder in zip(names, folders, strict=True):
        for file in sorted(folder.iterdir()):
            row = {"file_name": str(file.relative_to(out)), "caption": f"a photo of a {name}."}
            print(json.dumps(row), file=rows)
PYTHON
else
  echo "SILC_DATA is not set: no photographs, generated scenes take their place"
  set_dir=$out/scenes/classification/scenes_seen
  data=(--data.source scenes --train.duration "400 steps")
  "$python" - "$out/scenes" <<'PYTHON'
import sys
from pathlib import Path
from silc.data.scenes import write_sets

write_sets(Path(sys.argv[1]), size=64, seed=0)
PYTHON
fi

# SILC-C with CLIP's towers, which both other libraries have at any size.
"${silc[@]}" train silc_c "${data[@]}" --data.workers 0 --data.vocab-size 400 \
  --model.image.size 48 --model.image.patch 8 --model.image.width 64 --model.image.depth 2 --model.image.heads 2 \
  --model.image.mlp 256 --model.image.pool cls --model.image.pre-norm --model.image.projection linear \
  --model.text.length 24 --model.text.width 64 --model.text.depth 1 --model.text.heads 2 --model.text.mlp 128 \
  --model.text.causal --model.text.projection linear --model.embed-dim 64 \
  --data.crops.num-local 2 --data.crops.local-size 24 \
  --model.head.hidden 128 --model.head.bottleneck 32 --model.head.prototypes 128 \
  --train.batch-size 50 --train.log-every "100 steps" --train.save-every never \
  --train.optim.schedule cosine --train.optim.warmup "10%" --train.optim.cooldown "0 steps" --out "$out/run"
"${silc[@]}" export "$out/run" "$out/export" --formats open_clip,transformers
"$python" scripts/open_export.py "$out/export" "$set_dir"

# The same versions as here, but for numpy, on whose 2.4 CLIP_benchmark's release stops; requests it forgets to ask for.
if [ ! -x "$out/bench/bin/clip_benchmark" ]; then
  begun=$SECONDS
  sed -n 's/ *\\$//; /^numpy/d; /^[A-Za-z0-9]/p' requirements.lock >"$out/constraints.txt"
  "$uv" venv --quiet --python "$python" "$out/bench"
  "$uv" pip install --quiet --python "$out/bench/bin/python" --constraint "$out/constraints.txt" \
    clip-benchmark==1.6.2 requests webdataset 'numpy<2.4' open_clip_torch transformers
  echo "environment of CLIP_benchmark: $((SECONDS - begun)) s"
fi
PYTHON=$python SILC=${silc[*]} CLIP_BENCHMARK=$out/bench/bin/clip_benchmark \
  scripts/check_export.sh "$out/export" "$set_dir" "$out/scored"
echo "a trained model answered alike in silc, open_clip, transformers and CLIP_benchmark, in $SECONDS s"
