#!/usr/bin/env bash
# Stage 4, separate: the voices of every mixture of a test set.
#
# Reads <exp_dir>/best_model.pth (stage 3) and --test_dir, a folder with audio/mix and mouths/ or a prepared CSV; its
# table and embeddings are made when missing. Writes <exp_dir>/separated/<test name>/{s1,s2}/<mixture>.wav,
# separated.csv, failed.csv, and <exp_dir>/log/4_separate.log. An interrupted call goes on where it stopped.
# --test_dir may also be a video or a folder of videos: <exp_dir>/separated/<test name>/<video>/{face1,face2,rest}.wav,
# tracks.json and face1.png are written then; with --out_dir also log/4_separate.log goes there.
#   utils/stages/4_separate.sh --exp_dir exp/avdprnn_demo --test_dir /data/meetings
set -euo pipefail

exp_dir=           # folder of the experiment
test_dir=          # what to separate: a folder or a CSV
test_name=         # name of the outputs; empty: the folder's name, or <corpus>_<split>
cue_test=false     # also separate with the faces swapped and shuffled
fallback_exp_dir=  # audio-only experiment for mixtures without a usable mouth; empty: these are left out and listed
frontend_weights=  # where the experiment's front end lies now, or the test set's ready-made features; empty: where it was
subtype=float      # sample format of the voices: float or pcm16
window_sec=8.0     # longer mixtures are separated in windows of that length
hop_sec=6.0        # from window to window
batch_size=4       # equally long mixtures separated at once
dump_dir=dump      # where embeddings are kept
data_root_dir=data # where the table of a folder is made; <exp_dir>/data where this cannot be written
nj=$(nproc)        # processes and threads that read files
id=                # GPU, e.g. 0; cpu: none; empty: the first that is visible
out_dir=           # videos: the tracks go here instead
preview=false      # videos: also write each video again with each face's track
landmarks_dir=     # videos: landmarks that were found before, a file or folder named as each video
alignment=centred8 # videos: how mouths are aligned: centred8 or forward5
audio_stream=0     # videos: which audio stream, 1 is the first; 0: the default one, or the first that has sound
min_sec=0.5        # videos: people on screen for a shorter time are left out
people=            # videos: at most so many people; empty: as many as are seen
max_failed=0       # mixtures that may fail before the stage does
force=false        # separate again although nothing changed

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/utils/parse_options.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"
. utils/log.sh
. utils/recipe.sh

[[ -f $exp_dir/best_model.pth ]] || die "--exp_dir $exp_dir: no best_model.pth there; stage 3 makes it"
[[ -n $test_dir ]] || usage_error "--test_dir is needed: a folder with audio/mix and mouths/, or a prepared CSV"
log_dir=$exp_dir/log
if is_video_set "$test_dir"; then
    utils/install_more.sh requirements-video.txt
    log_dir=${out_dir:-$exp_dir}/log
elif [[ -d $test_dir ]]; then
    first_writable data_root_dir "$data_root_dir" "$exp_dir/data" || true # the program says what cannot be written
fi
start_program "$log_dir/4_separate.log" separate exp_dir test_dir test_name cue_test fallback_exp_dir \
    frontend_weights subtype window_sec hop_sec batch_size dump_dir data_root_dir out_dir preview \
    landmarks_dir alignment audio_stream min_sec people nj id max_failed force
