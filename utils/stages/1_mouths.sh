#!/usr/bin/env bash
# Stage 1, mouths: cut from the videos of a raw corpus, and every mouth crop that the tables name is opened and checked.
#
# Reads <data_dir>/<split>.csv and, for raw video, videos.csv (stage 0), the mouth crops or the videos; writes
# <data_dir>/mouths/ (raw video only), failed_mouths.csv and log/1_mouths.log.
#   utils/stages/1_mouths.sh --data_dir data/dla
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/path.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
cd -- "$ROOT"
. ./path.sh
exec python3 -E -S utils/stages/logged.py 1_mouths python3 -m utils.stages.mouths "$@"
