#!/usr/bin/env bash
# Training on several nodes of a Slurm cluster: sbatch utils/train_slurm.sh EXP_DIR CONF DATA_DIR LIP_WEIGHTS [TRAIN_ARGS].
#
# One task for each GPU; Lightning finds nodes and ranks in Slurm's variables. Change the numbers of nodes and GPUs here and
# nowhere else. A job that is stopped and submitted again goes on from its last whole epoch. Without Slurm, on each machine:
#   torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_endpoint HOST:29500 -m utils.stages.train --conf ... \
#       --train_args "--devices 4 --num_nodes 2 --strategy ddp"
#SBATCH --job-name=avsep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=6
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@60
set -euo pipefail

(($# >= 4)) || {
    echo "usage: sbatch utils/train_slurm.sh EXP_DIR CONF DATA_DIR LIP_WEIGHTS [TRAIN_ARGS]" >&2
    exit 2
}
cd -- "${SLURM_SUBMIT_DIR:-$PWD}"
. ./path.sh # makes .venv once, before the tasks start

devices="--devices ${SLURM_NTASKS_PER_NODE:-1} --num_nodes ${SLURM_JOB_NUM_NODES:-1} --strategy ddp"
srun --kill-on-bad-exit=1 python3 -m utils.stages.train --exp_dir "$1" --conf "$2" --data_dir "$3" --frontend_weights "$4" \
    --train_args "${5:-} $devices"
