#!/usr/bin/env bash
# TCL and PACL on a trained run of each seed, every training-free decoder beside them, and all tables as one page,
# OUT/paper.html. What has scores is kept, what was stopped goes on.
#
#   scripts/baselines.sh RUNS ROOT [OUT]         RUNS/seed-0, seed-1, ...: runs to train on; ROOT: sets to score
#   scripts/baselines.sh RUN ROOT [OUT]          one run, and heads of SEEDS (0 1 2) on it
#
# On the world with parts (docs/evidence/README.md), and on the photographs of $SILC_DATA:
#   DATA="--data.source objects" TASKS="objects*-zs-seg" scripts/baselines.sh out/evidence/rows/silc_c data/objects
#   DATA="--data.train $SILC_DATA/train/*.tar" scripts/baselines.sh out/real/silc_c "$SILC_DATA" out/baselines-real
set -euo pipefail
runs=${1:?give a folder with runs in seed-0, seed-1, ...} root=${2:?give a folder with data sets}
out=${3:-out/baselines} silc=${SILC:-silc} tasks=${TASKS:-*-zs-seg}
decoders=${DECODERS:-cosine,maskclip,sclip,clearclip,naclip,scclip,radseg,lposs}
train=(--train.duration "${DURATION:-25k examples}" --train.batch-size "${BATCH:-128}" --train.log-every "10%")
rate=${LR:-1e-3}

# score RUN [--flag value ...]: unless that is done.
score() {
  [ -f "$1/scores.json" ] || "$silc" eval "$@" --root "$root" --tasks "$tasks" --num-pictures 2 --cache off
}

set -f # a pattern of shards is the program's to read
all=()

# heads RUN SEED: TCL and PACL on a run.
heads() {
  for head in tcl pacl; do
    folder="$out/$head/seed-$2"
    "$silc" train "$head" --init "$1" --out "$folder" --resume auto --train.seed "$2" --train.optim.lr "$rate" \
      "${train[@]}" ${DATA:-}
    score "$folder"
    all+=("$folder")
  done
}

# below RUN FOLDER: the run itself by every decoder.
below() {
  mkdir -p "$2"
  [ -f "$2/scores.json" ] ||
    "$silc" eval "$1" --out "$2/scores.json" --root "$root" --tasks "$tasks" --decoder "$decoders" \
      --num-pictures 2 --cache off
  all+=("$2")
}

if [ -d "$runs/checkpoints" ]; then
  for seed in ${SEEDS:-0 1 2}; do heads "$runs" "$seed"; done
  below "$runs" "$out/below"
else
  for run in $(set +f; echo "$runs"/seed-*); do
    case $run in *.log | *.json | *.html | *.yaml) continue ;; esac
    heads "$run" "${run##*-}"
    below "$run" "$out/below/seed-${run##*-}"
  done
fi
"$silc" eval "${all[@]}" --paper --out "$out"
