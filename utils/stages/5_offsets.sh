#!/usr/bin/env bash
# Stage 5, offsets: how much a network loses where faces and voices are out of step.
#
# Reads what stages 4 and 5 read; separates the test set again with every face so many video frames too late (negative:
# too early) and writes <exp_dir>/results/<test name>/offset_sweep.{csv,md,png}. Stage 4 must have run.
#   utils/stages/5_offsets.sh --exp_dir exp/tse_grid --test_dir data/grid_tse/test.csv --av_offset_sweep -5:5
set -euo pipefail

exp_dir=             # folder of the experiment
test_dir=            # what was separated: a folder or a CSV
test_name=           # name of the outputs; empty: the folder's name, or <corpus>_<split>
av_offset_sweep=-5:5 # offsets in video frames: a span or a list such as -5,-1,1,5
subtype=float        # sample format of the voices: float or pcm16
window_sec=8.0       # longer mixtures are separated in windows of that length
hop_sec=6.0          # from window to window
batch_size=4         # equally long mixtures separated at once
dump_dir=dump        # where embeddings are kept
data_root_dir=data   # where the table of a folder is made; <exp_dir>/data where this cannot be written
nj=$(nproc)          # processes
id=                  # GPU, e.g. 0; cpu: none; empty: the first that is visible

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/utils/parse_options.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"
. utils/log.sh
. utils/recipe.sh

[[ -f $exp_dir/best_model.pth ]] || die "--exp_dir $exp_dir: no best_model.pth there; stage 3 makes it"
[[ -n $test_dir ]] || usage_error "--test_dir is needed: a folder with audio/mix and mouths/, or a prepared CSV"
if [[ -d $test_dir ]]; then first_writable data_root_dir "$data_root_dir" "$exp_dir/data" || true; fi
start_program "$exp_dir/log/5_offsets.log" offset_sweep exp_dir test_dir test_name av_offset_sweep subtype window_sec \
    hop_sec batch_size dump_dir data_root_dir nj id
