#!/usr/bin/env bash
# One node, all its GPUs: a process for each, started by torchrun.
#
#   sbatch scripts/slurm/one-node.sh silc_c --data.train '/data/pairs/{00000..00331}.tar' --out /shared/out/run
#
# Arguments are those of `silc train`. The job may be cut off at any time: a notice comes ahead of the time limit and of
# a preemption, the run saves, and the job goes back into the queue to go on from there. Three things make it so:
# `--signal` (who is told, when), `--requeue` (the job may run again), and `--resume auto` below.
#SBATCH --job-name=silc
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# 90 s before the end, to this script alone (B:), which passes it on. Saving takes some seconds; more does no harm.
#SBATCH --signal=B:USR1@90
set -euo pipefail

# A run's threads are its loader's workers (data.workers per GPU); one more each for everything else.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# torchrun passes SIGTERM on to every rank; the first one told tells the others at the end of the step.
notice=no
pass_on() {
  notice=yes
  kill -TERM $(jobs -p) 2>/dev/null || true
}
trap pass_on USR1 TERM

# SLURM_GPUS_ON_NODE is what this node really gives.
torchrun --standalone --nproc-per-node "${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-8}}" \
  --module silc train "$@" --resume auto &
ranks=$!

# A signal ends a `wait` before what it waits for has ended.
while true; do
  wait "$ranks" && status=0 || status=$?
  kill -0 "$ranks" 2>/dev/null || break
done

# Told to stop, and stopped: the rest of the run is another start of this job. Anything else is as it was.
if [ "$notice" = yes ] && [ "$status" -ne 0 ]; then
  echo "silc: stopped on notice after $(date); back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
