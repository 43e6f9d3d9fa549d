#!/usr/bin/env bash
# The paper's four ablation rows, SigLIP and SILC-S, on generated scenes: three seeds each, at equal examples, teacher
# and student scored; then SILC-C with w in {0.03, 0.1, 0.3, 1}. Writes OUT/ablation.md and ablation.svg: mean and
# spread over the seeds, and which differences lie outside it. With DOCS=docs also docs/results.md and its plot.
#
# Cost: 27 runs (w = 0.1 is the recipe's own), about an hour and a half on 2 CPU cores at the default size. It can be
# stopped and started again: what has scores is kept.
#   scripts/ablation.sh [OUT]
#   JOBS=2 OMP_NUM_THREADS=1 scripts/ablation.sh                       # two runs at a time, a core each
#   SIZE=s16 DURATION="2M examples" scripts/ablation.sh out/large      # on a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
export out=${1:-out/ablation} size=${SIZE:-tiny} duration=${DURATION:-25k examples} silc=${SILC:-silc}
seeds=${SEEDS:-0 1 2}
python=${PYTHON:-python}

"$python" scripts/ablation.py data "$out/data" --size "$size" ${DATA_ARGS:-}

# run NAME RECIPE SEED [--field value ...]: train and score one run, unless that is done.
run() {
  local name=$1 recipe=$2 seed=$3
  shift 3
  local folder="$out/$name/seed-$seed"
  [ -f "$folder/scores.json" ] && return
  "$silc" train "$recipe-$size" --train.seed "$seed" --train.duration "$duration" --out "$folder" --resume auto \
    ${TRAIN_ARGS:-} "$@"
  "$silc" eval "$folder" --root "$out/data" --num-pictures 2 --cache off ${EVAL_ARGS:-}
}

export -f run

# One line a run, its arguments.
own_weight=$("$python" scripts/ablation.py weight --size "$size")
for seed in $seeds; do
  for recipe in clip clip_views clip_views_ema silc_c siglip silc_s; do
    echo "$recipe" "$recipe" "$seed"
  done
  for weight in 0.03 0.1 0.3 1; do
    [ "$weight" = "$own_weight" ] || echo "silc_c-w$weight" silc_c "$seed" --objective.weight "$weight"
  done
done | xargs -P "${JOBS:-1}" -L 1 bash -euo pipefail -c 'run "$@"' _

"$python" scripts/ablation.py table "$out" ${DOCS:+--docs "$DOCS"}
