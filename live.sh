#!/usr/bin/env bash
# The voice of each face while they speak: from a camera and a microphone, or from a file that is played in real time.
#
#   ./live.sh [--out_dir DIR]                                    camera and microphone, until Ctrl-C
#   ./live.sh --play face1                                       and hear the first face (with headphones: it feeds back)
#   ./live.sh --source VIDEO [--realtime false]                  a file, as if it were heard and seen now; or as fast as it goes
#
# Writes DIR/face1.wav, face2.wav, ..., rest.wav (the residual) and sound.wav (what was heard), 16 kHz, in step with each other
# to the sample; live.csv (a row each second), live.png (a picture of it) and live.json (how late, how busy, how certain). A
# person keeps the number that was free when the face appeared, and gets it back after an absence. Each second is on disk when
# it is over.
# The network must be causal (conf/av_tfdprnn_causal.yml). See docs/live.md.
# Exit codes: 0 done or ended by Ctrl-C, 1 failed, 2 wrong usage.
set -euo pipefail

source=            # a video with sound; empty: camera and microphone
realtime=true      # false: as fast as it goes, the same each time; --source only
camera=            # its number, or a path such as /dev/video0; empty: the first
microphone=        # as PortAudio names it, or its number (python3 -m sounddevice lists them); empty: the system's
play=              # track to hear: face1, ..., rest; empty: none
people=2           # at most so many faces
out_dir=           # empty: live/<name of the video>, or live/<date and time>, where you are
exp_dir=           # an experiment of your own (run.sh, stage 3), or hf://USER/NAME; empty: the recipe's own causal network
frontend_weights=  # the visual frontend's file, if it is not where the experiment had it
alignment=centred8 # how mouths are aligned: centred8 or forward5
audio_stream=0     # of --source: which audio stream, 1 is the first; 0: the first that has sound
max_sec=0          # end after so many seconds; 0: do not
runtime=onnx       # what runs the separation network: onnx (the first call exports it), or torch, five times as slow
threads=1          # of torch; faces and comparison have a thread each

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/utils/parse_options.sh"
. "$ROOT/utils/log.sh"
if [[ -z $out_dir ]]; then
    name=${source##*/}
    out_dir=live/${name%.*}
    [[ -n $source ]] || out_dir=live/$(date +%Y-%m-%d_%H-%M-%S)
fi
for name in source out_dir exp_dir frontend_weights; do # paths are the caller's, also after the cd
    [[ -z ${!name} || ${!name} == hf://* ]] || IFS= read -r -d '' "$name" < <(realpath -zms -- "${!name}")
done
caller_dir=$PWD
cd -- "$ROOT"
. utils/recipe.sh

[[ -z $source || -f $source ]] || die "--source $source: no such video"
exp_dir=${exp_dir:-egs/own_video/live}
check_experiment "$exp_dir"
. ./path.sh
fetch_experiment exp_dir exp/hub "$caller_dir/exp/hub"
if [[ -n $source && -z $play ]]; then utils/install_more.sh requirements-video.txt; else utils/install_more.sh requirements-live.txt; fi
dump_dir=""
work_dir dump_dir "$out_dir"
exec python3 -m utils.live.main ${source:+"--source=$source"} "--realtime=$realtime" "--camera=$camera" \
    "--microphone=$microphone" "--play=$play" "--people=$people" "--out_dir=$out_dir" "--exp_dir=$exp_dir" \
    "--frontend_weights=$frontend_weights" "--alignment=$alignment" "--audio_stream=$audio_stream" "--max_sec=$max_sec" \
    "--threads=$threads" "--runtime=$runtime" "--dump_dir=$dump_dir"
