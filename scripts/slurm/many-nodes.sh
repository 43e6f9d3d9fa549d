#!/usr/bin/env bash
# Many nodes: `srun` starts torchrun once on each, and they find each other (c10d) at the first node of the job.
#
#   sbatch --nodes 8 scripts/slurm/many-nodes.sh silc_c --data.train 's3://pairs/{00000..00331}.tar' --out /shared/out/run
#
# Arguments are those of `silc train`; --out is a folder that every node sees. As scripts/slurm/one-node.sh it saves on
# notice and goes back into the queue. It may come back on another number of nodes (sbatch --nodes 4-8): batches, order
# and result are those of the same global batch, as long as the ranks divide it. (It repeats that script's last lines: sbatch copies a script away from its neighbours.)
#SBATCH --job-name=silc
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@90
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# Every node asks the first one; the port follows from the job, so that two jobs on a node do not meet.
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))

# `srun` passes SIGTERM on to the torchruns, and they to their ranks; the first rank told tells the others at the end of
# the step, so it does not matter who hears it first.
notice=no
pass_on() {
  notice=yes
  kill -TERM $(jobs -p) 2>/dev/null || true
}
trap pass_on USR1 TERM

# --kill-on-bad-exit: one node that fails ends the others, instead of leaving them to wait for it.
# --wait: once one torchrun has ended, how long srun lets the others end by themselves.
srun --kill-on-bad-exit=1 --wait=60 \
  torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-8}}" \
  --rdzv-backend c10d --rdzv-endpoint "$first:$port" --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  --module silc train "$@" --resume auto &
step=$!

# A signal ends a `wait` before what it waits for has ended.
while true; do
  wait "$step" && status=0 || status=$?
  kill -0 "$step" 2>/dev/null || break
done

# Told to stop, and stopped: the rest of the run is another start of this job. Anything else is as it was.
if [ "$notice" = yes ] && [ "$status" -ne 0 ]; then
  echo "silc: stopped on notice after $(date); back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
