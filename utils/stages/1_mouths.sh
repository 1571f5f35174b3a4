#!/usr/bin/env bash
# Stage 1, mouths: cut from the videos of a raw corpus, and every mouth crop that the tables name is opened and checked.
#
# Reads <data_dir>/<split>.csv and, for raw video, videos.csv (stage 0), the mouth crops or the videos; writes
# <data_dir>/mouths/ (raw video only), failed_mouths.csv and log/1_mouths.log.
#   utils/stages/1_mouths.sh --data_dir data/dla
set -euo pipefail

data_dir=data/demo # the prepared corpus
alignment=centred8 # raw video: how mouths are aligned: centred8 (as the public weights of 2022) or forward5 (older ones)
nj=$(nproc)        # processes that cut, threads that read files
max_failed=0       # clips or rows with broken mouths that may pass before the stage fails
force=false        # check again although nothing changed

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/utils/parse_options.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"
. utils/log.sh

[[ -d $data_dir ]] || die "--data_dir $data_dir: no such folder; stage 0 (utils/stages/0_prepare.sh) makes it"
if [[ -f $data_dir/videos.csv ]]; then utils/install_more.sh requirements-video.txt; fi
start_program "$data_dir/log/1_mouths.log" mouths data_dir alignment nj max_failed force
