#!/usr/bin/env bash
# Stage 0, prepare: a raw corpus becomes validated tables of mixtures and utterances.
#
# Reads the folder --corpus_dir by way of egs/<corpus>/prepare.py; writes <data_dir>/<split>.csv, each with a .json of
# what holds for all of it, failed.csv, and log/0_prepare.log.
#   utils/stages/0_prepare.sh --corpus dla --corpus_dir /data/dla_dataset
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/path.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
cd -- "$ROOT"
. ./path.sh
exec python3 -E -S utils/stages/logged.py 0_prepare python3 -m utils.stages.prepare "$@"
