#!/usr/bin/env bash
# Stage 3, train: a separation network learns from a prepared corpus and its embeddings.
#
# Reads <data_dir>/ (stage 0), <dump_dir>/embeddings (stage 2) and the conf; writes <exp_dir>/ with best_model.pth,
# checkpoints, curves and log/3_train.log. An interrupted training goes on where it stopped.
#   srun --gres=gpu:2 --ntasks-per-node=2 utils/stages/3_train.sh --conf conf/av_tfdprnn.yml --data_dir data/dla --exp_dir exp/dla \
#       --frontend_weights lrw_resnet18_mstcn.pth.tar
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/path.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
cd -- "$ROOT"
. ./path.sh
exec python3 -E -S utils/stages/logged.py 3_train python3 -m utils.stages.train "$@"
