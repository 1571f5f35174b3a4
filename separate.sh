#!/usr/bin/env bash
# From a video to one track for each face in it.
#
#   ./separate.sh VIDEO [--out_dir DIR]         VIDEO: any video with sound, or a folder of videos
#
# Writes DIR/<video>/: face1.wav, face2.wav, ... (from left to right; as long as the video's sound to the sample, 16 kHz),
# rest.wav (the residual: speakers off screen, noise), face1.png, ..., speech.rttm and face1.vtt, ... (who spoke when), and
# tracks.json (who is on screen when, warnings). Together the tracks are what was heard. It is `./run.sh --stage 4
# --test_dir VIDEO` with the network and the visual frontend that come with the recipe.
# What is up to date is not made again, what was interrupted goes on.
# Work files (sound, faces, mouths) are kept in dump/ of the recipe; where that cannot be written, in
# ${XDG_CACHE_HOME:-~/.cache}/avsep, and without a home in DIR/.cache. The log is DIR/log/4_separate.log.
# Exit codes: 0 done, 1 a video could not be separated (failed.csv), 2 wrong usage.
set -euo pipefail

video=             # instead of the first word: the video, or a folder of videos
out_dir=           # DIR; empty: separated/<name of the video or folder> in exp/pretrained or --exp_dir, or where you are
preview=false      # also write the video again with each face's track: face1.mp4, ...
output_rate=16k    # source: also write stems/face1.wav, ... at the sound's own rate and with its channels
mux=false          # also write one video with a named stream of sound for each track: tracks.mp4 (.mov, .mkv)
asr=               # command that prints what is said in a wav, its last word; for face1.vtt, ... and tracks.json
exp_dir=           # an experiment of your own (run.sh, stage 3), or hf://USER/NAME[@REVISION]; empty: the recipe's own network
frontend_weights=  # the visual frontend's file, if it is not where the experiment had it
face_weights=      # the same for the face frontend
landmarks_dir=     # landmarks that were found before, a file named as each video; empty: found here
alignment=centred8 # how mouths are aligned: centred8 or forward5
audio_stream=0     # which audio stream, 1 is the first; 0: the default one, or the first that has sound
min_on_screen_sec=0.5 # people on screen for a shorter time are left out
people=            # at most so many people; empty: as many as are seen
subtype=float      # sample format of the tracks: float or pcm16
nj=$(nproc)        # videos prepared at once
cluster=           # where they are prepared and separated: dask://HOST:PORT, slurm (docs/cluster.md); empty: here
id=                # GPU, e.g. 0; cpu: none; empty: the first that is visible
runtime=torch      # what runs the networks: torch, or onnx (onnxruntime, on the CPU; docs/export.md)
max_failed=0       # videos that may fail before this does
force=false        # separate again although nothing changed

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
if [[ $# -gt 0 && $1 != -* ]]; then set -- "--video=$1" "${@:2}"; fi
. "$ROOT/utils/parse_options.sh"
. "$ROOT/utils/log.sh"
[[ -n $video ]] || usage_error "which video? ./separate.sh VIDEO"
for name in video out_dir exp_dir frontend_weights face_weights landmarks_dir; do # paths are the caller's, also after the cd
    [[ -z ${!name} || ${!name} == hf://* ]] || IFS= read -r -d '' "$name" < <(realpath -zms -- "${!name}")
done
caller_dir=$PWD
cd -- "$ROOT"
. utils/recipe.sh

[[ -e $video ]] || die "$video: no such video or folder"
test_name=${video##*/}
[[ ! -f $video ]] || test_name=${test_name%.*}
if [[ $exp_dir == hf://* ]]; then
    . ./path.sh
    fetch_experiment exp_dir exp/hub ${out_dir:+"$out_dir/.cache/hub"} "$caller_dir/exp/hub"
fi
if [[ -z $out_dir ]]; then
    first_writable out_dir "${exp_dir:-exp/pretrained}/separated/$test_name" "$caller_dir/separated/$test_name" ||
        die "neither the recipe's folder nor $caller_dir can be written: choose a folder for the tracks with --out_dir DIR"
else
    first_writable out_dir "$out_dir" || die "--out_dir $out_dir: cannot be made, or not be written; give another folder"
fi
if [[ $caller_dir != "$ROOT" && $out_dir != /* ]]; then out_dir=$ROOT/$out_dir; fi # as the caller can open it
dump_dir=""
work_dir dump_dir "$out_dir"
exp_dir=${exp_dir:-egs/own_video/pretrained} # what is made with the latter lies elsewhere, as said above
exec utils/stages/4_separate.sh "--exp_dir=$exp_dir" "--test_dir=$video" "--test_name=$test_name" \
    "--out_dir=$out_dir" "--dump_dir=$dump_dir" "--preview=$preview" "--frontend_weights=$frontend_weights" \
    "--output_rate=$output_rate" "--mux=$mux" "--asr=$asr" "--asr_dir=$caller_dir" \
    "--face_weights=$face_weights" "--cluster=$cluster" \
    "--landmarks_dir=$landmarks_dir" "--alignment=$alignment" "--audio_stream=$audio_stream" "--people=$people" \
    "--min_on_screen_sec=$min_on_screen_sec" "--subtype=$subtype" "--nj=$nj" "--id=$id" "--runtime=$runtime" \
    "--max_failed=$max_failed" "--force=$force"
