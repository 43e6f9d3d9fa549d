#!/usr/bin/env bash
# The paper's four ablation rows, SigLIP and SILC-S, on generated scenes: three seeds each, at equal examples, teacher
# and student scored; the rows without self-distillation again, longer, at the training FLOPs of those with it; then
# SILC-C with w in {0.03, 0.1, 0.3, 1}. Writes OUT/ablation.md, ablation.svg and ablation-flops.svg: mean and spread over
# the seeds, and which differences lie outside it. With DOCS=docs also docs/results.md and its plots.
#
# Cost: 36 runs (w = 0.1 is the recipe's own), the nine longer ones as much each as one of SILC; the other 27 took about
# an hour and a half on 2 CPU cores at the default size. It can be stopped and started again: what has scores is kept.
#   EQUAL=no scripts/ablation.sh                                       # without the longer ones
#   scripts/ablation.sh [OUT]
#   JOBS=2 OMP_NUM_THREADS=1 scripts/ablation.sh                       # two runs at a time, a core each
#   SIZE=s16 DURATION="2M examples" scripts/ablation.sh out/large      # on a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
export out=${1:-out/ablation} size=${SIZE:-tiny} duration=${DURATION:-25k examples} silc=${SILC:-silc}
seeds=${SEEDS:-0 1 2}
python=${PYTHON:-python}

"$python" scripts/ablation.py data "$out/data" --size "$size" ${DATA_ARGS:-}

# run NAME RECIPE SEED DURATION [--field value ...]: train and score one run, unless that is done.
run() {
  local name=$1 recipe=$2 seed=$3 duration=$4
  shift 4
  local folder="$out/$name/seed-$seed"
  [ -f "$folder/scores.json" ] && return
  "$silc" train "$recipe-$size" --train.seed "$seed" --train.duration "$duration" --out "$folder" --resume auto \
    ${TRAIN_ARGS:-} "$@"
  "$silc" eval "$folder" --root "$out/data" --num-pictures 2 --cache off ${EVAL_ARGS:-}
}

export -f run

# One line a run, its arguments.
own_weight=$("$python" scripts/ablation.py weight --size "$size")
equal=
[ "${EQUAL:-yes}" = no ] || equal=$("$python" scripts/ablation.py equal --size "$size" --duration "$duration")
for seed in $seeds; do
  for recipe in clip clip_views clip_views_ema silc_c siglip silc_s; do
    echo "$recipe $recipe $seed '$duration'"
  done
  while read -r name recipe examples; do
    [ -z "$name" ] || echo "$name $recipe $seed '$examples examples'"
  done <<<"$equal"
  for weight in 0.03 0.1 0.3 1; do
    [ "$weight" = "$own_weight" ] || echo "silc_c-w$weight silc_c $seed '$duration' --objective.weight $weight"
  done
done | xargs -P "${JOBS:-1}" -L 1 bash -euo pipefail -c 'run "$@"' _

"$python" scripts/ablation.py table "$out" ${DOCS:+--docs "$DOCS"}
