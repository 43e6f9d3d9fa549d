#!/usr/bin/env bash
# clip and silc_c on the six shards of $SILC_DATA/train (5,015 photographs), at a size two CPU cores carry: same data,
# batch, steps and seed; then every data set of $SILC_DATA scored for both, in one report.
#
# Cost: about half an hour on 2 cores of an AMD EPYC with bf16 instructions. Numbers: docs/results.md.
#   scripts/real_photographs.sh [OUT]
#   RECIPES=clip scripts/real_photographs.sh      # only what scripts/continue_real.sh starts from
set -euo pipefail
out=${1:-out/real}
data=${SILC_DATA:?set SILC_DATA to the folder with train/, retrieval/, classification/ and segmentation/}
silc=${SILC:-silc}

common=(
  --data.train "$data/train/*.tar" --data.vocab-size 4096
  --model.image.size 64 --model.image.patch 8 --model.image.width 128 --model.image.depth 4
  --model.image.heads 4 --model.image.mlp 512 --model.embed-dim 128
  --model.text.length 32 --model.text.width 128 --model.text.depth 3 --model.text.heads 4 --model.text.mlp 512
  --data.crops.local-size 24 --model.head.prototypes 1024
  --train.batch-size 128 --train.duration "15 epochs" --train.log-every "13 steps" --train.save-every "50%"
  --train.optim.schedule cosine --train.optim.warmup "10%" --train.optim.cooldown "0 steps"
)
for recipe in ${RECIPES:-clip silc_c}; do
  "$silc" train "$recipe" "${common[@]}" --out "$out/$recipe"
  "$silc" eval "$out/$recipe" --root "$data" --out "$out/$recipe/scores.json"
done
