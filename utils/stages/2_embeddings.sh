#!/usr/bin/env bash
# Stage 2, embeddings: every mouth of a corpus through the lip-reading front end, once.
#
# Reads <data_dir>/<split>.csv (stage 0), the mouth crops and the weights; writes
# <dump_dir>/embeddings/<front end>-<fingerprint>/<corpus>/ and <data_dir>/log/2_embeddings.log. Processes started by
# torchrun or srun share the work.
#   sbatch --gres=gpu:1 utils/stages/2_embeddings.sh --data_dir data/dla --frontend_weights lrw_resnet18_mstcn.pth.tar
set -euo pipefail

data_dir=data/demo   # the prepared corpus
frontend_weights=    # checkpoint of the lip-reading front end, or a folder of ready-made features ID.npy
frontend_conf=       # its conf/lipreading/*.json; empty: found out from the checkpoint
frontend_layer=trunk # trunk or tcn: the output whose features are kept
views=centre         # crops to embed: centre or centre,flip
precision=float16    # of what is stored: float16 or float32
dump_dir=dump        # the embeddings go to <dump_dir>/embeddings
batch_size=16        # clips for each step
nj=$(nproc)          # threads that read ahead
id=                  # GPUs, e.g. 0 or 0,1; cpu: none; empty: all that are visible
max_failed=0         # mouths that may fail before the stage does
force=false          # embed everything again

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/utils/parse_options.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"
. utils/log.sh

[[ -d $data_dir ]] || die "--data_dir $data_dir: no such folder; stage 0 (utils/stages/0_prepare.sh) makes it"
start_program "$data_dir/log/2_embeddings.log" embed data_dir frontend_weights frontend_conf frontend_layer views \
    precision dump_dir batch_size nj id max_failed force
