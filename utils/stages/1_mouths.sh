#!/usr/bin/env bash
# Stage 1, mouths: every mouth crop that the tables name is opened and checked.
#
# Reads <data_dir>/<split>.csv (stage 0) and the mouth crops; writes <data_dir>/failed_mouths.csv and log/1_mouths.log.
#   utils/stages/1_mouths.sh --data_dir data/dla
set -euo pipefail

data_dir=data/demo # the prepared corpus
nj=$(nproc)        # threads that read files
max_failed=0       # rows with broken mouths that may pass before the stage fails
force=false        # check again although nothing changed

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/utils/parse_options.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
. "$ROOT/utils/parse_options.sh"
cd "$ROOT"
. utils/log.sh

[[ -d $data_dir ]] || die "--data_dir $data_dir: no such folder; stage 0 (utils/stages/0_prepare.sh) makes it"
start_program "$data_dir/log/1_mouths.log" mouths data_dir nj max_failed force
