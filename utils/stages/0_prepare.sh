#!/usr/bin/env bash
# Stage 0, prepare: a raw corpus becomes validated tables of mixtures and utterances.
#
# Reads the folder --corpus_dir by way of egs/<corpus>/prepare.py; writes <data_dir>/<split>.csv, each with a .json of
# what holds for all of it, failed.csv, and log/0_prepare.log.
#   utils/stages/0_prepare.sh --corpus dla --corpus_dir /data/dla_dataset
set -euo pipefail

corpus=demo    # a folder of egs/
corpus_dir=    # where the raw corpus lies; the demo needs none
corpus_args=   # further options of egs/<corpus>/prepare.py, as one text
data_dir=      # where the tables go; empty: data/<corpus>
nj=$(nproc)    # processes
max_failed=0   # items that may be left out before the stage fails
force=false    # prepare again although nothing changed

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/utils/parse_options.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"
. utils/log.sh

data_dir=${data_dir:-data/$corpus}
[[ -f egs/$corpus/prepare.py ]] || die "--corpus $corpus: there is no egs/$corpus/prepare.py"
if [[ -f egs/$corpus/requirements.txt ]]; then utils/install_more.sh "egs/$corpus/requirements.txt"; fi
start_program "$data_dir/log/0_prepare.log" prepare corpus corpus_dir corpus_args data_dir nj max_failed force
