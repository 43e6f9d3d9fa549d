#!/usr/bin/env bash
# Does late SILC give a trained model something that more of its own training does not? From the `clip` run of
# scripts/real_photographs.sh, five passes over the six shards of $SILC_DATA/train: late SILC, and as its control the
# same batches, steps and rates with the contrastive loss alone. Three seeds each; teacher and student scored on every
# data set of $SILC_DATA. Writes OUT/continue.md: mean and spread. With DOCS=docs also docs/results.md.
#
# Cost: on one core of an AMD EPYC about 10 minutes for the run to start from, unless BASE names it, and about 45 for
# the six runs and their scores. It can be stopped and started again: what has scores is kept.
#   SILC_DATA=... scripts/continue_real.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/continue}
data=${SILC_DATA:?set SILC_DATA to the folder with train/, retrieval/, classification/ and segmentation/}
silc=${SILC:-silc}
python=${PYTHON:-python}
base=${BASE:-$out/real/clip}

[ -d "$base/checkpoints" ] || RECIPES=clip scripts/real_photographs.sh "$out/real"

# score RUN INTO
score() {
  "$silc" eval "$1" --root "$data" --tasks '*-zs,*-retrieval,*-zs-seg' --num-pictures 0 --cache off --out "$2"
}

[ -f "$out/before/seed-0/scores.json" ] || score "$base" "$out/before/seed-0/scores.json"
for seed in ${SEEDS:-0 1 2}; do
  for mode in contrastive late; do
    folder="$out/$mode/seed-$seed"
    [ -f "$folder/scores.json" ] && continue
    # The rate is three tenths of the base run's peak: its five hundred steps left it far from converged.
    "$silc" finetune --init "$base" --mode "$mode" --data.train "$data/train/*.tar" --out "$folder" --resume auto \
      --train.seed "$seed" --train.duration "${DURATION:-5 epochs}" --train.optim.lr 3e-4 --train.held-out 0 \
      --train.log-every "13 steps" --train.save-every never ${TRAIN_ARGS:-}
    score "$folder" "$folder/scores.json"
  done
done
"$python" scripts/continue_real.py "$out" ${DOCS:+--docs "$DOCS"}
