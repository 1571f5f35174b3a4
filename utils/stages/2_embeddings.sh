#!/usr/bin/env bash
# Stage 2, embeddings: every mouth of a corpus through the visual frontend, once.
#
# Reads <data_dir>/<split>.csv (stage 0), the mouth crops and the weights; writes
# <dump_dir>/embeddings/<visual frontend>-<fingerprint>/<corpus>/ and <data_dir>/log/2_embeddings.log. Processes started by
# torchrun or srun share the work.
#   sbatch --gres=gpu:1 utils/stages/2_embeddings.sh --data_dir data/dla --frontend_weights lrw_resnet18_mstcn.pth.tar
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/path.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
cd -- "$ROOT"
. ./path.sh
exec python3 -E -S utils/stages/logged.py 2_embeddings python3 -m utils.stages.embed "$@"
