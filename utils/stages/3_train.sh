#!/usr/bin/env bash
# Stage 3, train: a separation network learns from a prepared corpus and its embeddings.
#
# Reads <data_dir>/ (stage 0), <dump_dir>/embeddings (stage 2) and the conf; writes <exp_dir>/ with best_model.pth,
# checkpoints, curves and log/3_train.log. An interrupted training goes on where it stopped.
#   srun --gres=gpu:2 --ntasks-per-node=2 utils/stages/3_train.sh --conf conf/av_tfdprnn.yml --data_dir data/dla --exp_dir exp/dla \
#       --frontend_weights lrw_resnet18_mstcn.pth.tar
set -euo pipefail

conf=conf/av_tfdprnn.yml   # the model and its training
data_dir=data/demo   # the prepared corpus
exp_dir=             # folder of the experiment
train_args=          # keys of the conf to change, e.g. "--lr 0.0005 --batch_size 2"
frontend_weights=    # checkpoint of the lip-reading front end, or the folder of features; none for an audio-only conf
frontend_conf=       # its conf/lipreading/*.json; empty: found out from the checkpoint
frontend_layer=trunk # trunk or tcn: the output whose features are used
views=centre         # crops to draw from: centre or centre,flip
precision=float16    # of the stored embeddings: float16 or float32
dump_dir=dump        # where embeddings are kept
id=                  # GPUs, e.g. 0 or 0,1; cpu: none; empty: all that are visible
force=false          # train anew although nothing changed

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/utils/parse_options.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"
. utils/log.sh

[[ -n $exp_dir ]] || usage_error "--exp_dir is needed: the folder of the experiment, e.g. exp/mine"
[[ -f $conf ]] || die "--conf $conf: no such file"
[[ -d $data_dir ]] || die "--data_dir $data_dir: no such folder; stage 0 (utils/stages/0_prepare.sh) makes it"
start_program "$exp_dir/log/3_train.log" train conf data_dir exp_dir train_args frontend_weights frontend_conf \
    frontend_layer views precision dump_dir id force
