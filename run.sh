#!/usr/bin/env bash
# From a corpus of talking faces to separated speakers with a table of scores.
#
#   ./run.sh                                                   everything, on the demo corpus that it makes itself
#   ./run.sh --corpus dla --corpus_dir DIR --frontend_weights FILE    train, separate and score on your own corpus
#   ./run.sh --stage 4 --test_dir DIR                          separate DIR with the trained model, and score it
#
# Stages: 0 prepare, 1 mouths, 2 embeddings, 3 train, 4 separate, 5 score. What is up to date is skipped, what was
# interrupted goes on. Everything is written below data/, dump/ and exp/; logs are in exp/<tag>/log and data/<corpus>/log.
# Paths are relative to the folder of this file. Exit codes: 0 done, 1 a stage failed, 2 wrong usage.
set -euo pipefail

stage=0             # the first stage to run
stop_stage=5        # the last stage to run
force=false         # run the stages even where they are up to date
nj=$(nproc)         # processes for what runs on the CPU
cluster=            # where stages 0, 1, 2, 4, 5 run: dask://HOST:PORT, slurm (--nj workers; docs/cluster.md); empty: here
id=                 # GPUs, e.g. 0 or 0,1; cpu: none; empty: all that are visible
max_failed=0        # items of a stage that may fail (each is listed in a failed.csv) before the stage fails

corpus=demo         # a folder of egs/
corpus_dir=         # where the raw corpus lies; the demo needs none
corpus_args=        # further options of egs/<corpus>/prepare.py, as one text
data_dir=           # the prepared corpus; empty: data/<corpus>
alignment=centred8  # raw video: how mouths are aligned, centred8 or forward5 (as the visual frontend was trained)
fix_av_offset=      # raw video: auto finds by how much all videos come too late, and corrects it; or whole frames
dump_dir=dump       # where embeddings are kept
data_root_dir=data  # where the table of a --test_dir folder is made; <exp_dir>/data where this cannot be written

frontend_weights=   # checkpoint of the visual frontend, or a folder of precomputed embeddings; empty: the demo's own
face_weights=       # of the face frontend, for confs that ask for faces: a checkpoint; empty: dlib, whose weights are a package
frontend_conf=      # its conf/lipreading/*.json; empty: found out from the checkpoint
frontend_layer=trunk # trunk or tcn: the output that is used
views=centre        # what is embedded of the crops, to draw from in training: centre,flip,varied1,...,varied9
embedding_dtype=float16 # of the stored embeddings: float16 or float32
embed_batch_size=16 # clips in each step of stage 2
voice_to_mouth_dir= # experiment that makes embeddings of speech without faces, for --train_args "--made_embeddings true"

conf=               # the model and its training; empty: conf/demo.yml for the demo, else conf/av_tfdprnn.yml
train_args=         # keys of the conf to change, e.g. "--lr 0.0005 --batch_size 2"
init_exp_dir=       # stage 3: start from the network of this experiment
tag=                # name of the experiment; empty: <conf>_<corpus>_<train_args>
exp_dir=            # folder of the experiment; empty: exp/<tag>; stages 4, 5: also hf://USER/NAME[@REVISION] of a hub

test_dir=           # what to separate: a folder (audio/mix, mouths), a CSV, a video, or videos; empty: <data_dir>/test.csv
test_name=          # name of its outputs; empty: the folder's name, or <corpus>_<split>
cue_test=false      # also separate with swapped and with shuffled visual embeddings, and score that
av_offset_sweep=    # also separate with the video so many frames late, and score that: -5:5 or -5,-1,1,5; empty: none
fallback_exp_dir=   # audio-only experiment for mixtures without a usable mouth; empty: these are left out and listed
window_sec=8.0      # longer mixtures and videos are separated in windows of that length
hop_sec=6.0         # from window to window
batch_size=4        # equally long mixtures separated at once
permute=false       # score with the estimates in the order of the best mean SI-SNR
out_dir=            # videos: their tracks go here; empty: <exp_dir>/separated/<test_name>
landmarks_dir=      # videos: landmarks that were found before, a file named as each video
audio_stream=0      # videos: which audio stream, 1 is the first; 0: the default one, or the first that has sound
min_on_screen_sec=0.5 # videos: people on screen for a shorter time are left out
people=             # videos: at most so many people; empty: as many as are seen
preview=false       # videos: also write them again with each face's track
output_rate=16k     # videos: source also writes stems at the sound's own rate and with its channels
mux=false           # videos: also write one video with a named stream of sound for each track
asr=                # videos: command that prints what is said in a wav, its last word; for the WebVTT and tracks.json
runtime=torch       # what runs the networks in stage 4: torch, or onnx (onnxruntime, on the CPU; docs/export.md)
subtype=float       # sample format of the estimates: float or pcm16

COMMAND=("$0" "$@")
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"
. utils/log.sh
. utils/recipe.sh

runs() { ((stage <= $1 && $1 <= stop_stage)); }

run_stage() { # number, name, then the options that the stage's program gets; an empty one is left to its default
    local number=$1 name=$1_$2 option status=0 log_dir=$data_dir/log
    local -a arguments=()
    shift 2
    runs "$number" || return 0
    for option in "$@"; do
        if [[ -n ${!option} ]]; then arguments+=("--$option=${!option}"); fi
    done
    log "stage $name"
    "utils/stages/$name.sh" "${arguments[@]}" || status=$?
    ((status != 0)) || return 0
    ((number < 3)) || log_dir=$exp_dir/log
    if ((number == 4)); then log_dir=${out_dir:-$exp_dir}/log; fi
    report_failure "$name" "$status" "$log_dir/$name.log" "$(continue_command "$number" "${COMMAND[@]}")"
}

((0 <= stage && stage <= stop_stage && stop_stage <= 5)) ||
    usage_error "--stage $stage --stop_stage $stop_stage: stages run from 0 to 5, the first not after the last"
[[ $tag != */* && $tag != .* ]] || usage_error "--tag $tag: it names a folder of exp/; a path is given with --exp_dir"
# stage 4 takes what the experiment was trained with, unless told otherwise
own_weights=$frontend_weights own_face_weights=$face_weights
face_weights=${face_weights:-dlib}
if [[ $corpus == demo ]]; then
    conf=${conf:-conf/demo.yml}
    frontend_weights=${frontend_weights:-egs/demo/lipreader.pth.tar}
fi
conf=${conf:-conf/av_tfdprnn.yml}
data_dir=${data_dir:-data/$corpus}
exp_dir=${exp_dir:-exp/${tag:-$(experiment_tag "$conf" "$corpus" "$train_args")}}
exp_dir=${exp_dir%/}

[[ $exp_dir != hf://* ]] || ((stage >= 4)) ||
    usage_error "--exp_dir $exp_dir: a network of a hub can be used (--stage 4), not trained here"

if runs 0; then check_corpus "$corpus" "$corpus_dir"; fi
if runs 2 || runs 3; then
    check_conf "$conf"
    check_weights "$frontend_weights"
fi
if runs 4 && [[ -n $test_dir ]]; then check_test_dir "$test_dir"; fi
if ((stage >= 4)); then check_experiment "$exp_dir"; fi
test_dir=${test_dir:-$data_dir/test.csv}

export AVSEP_RUN_PID=$$ # stages end when this process does
. ./path.sh
fetch_experiment exp_dir exp/hub
if runs 2 || runs 3; then
    python3 -m utils.training.preflight "--conf=$conf" "--train_args=$train_args" "--frontend_weights=$frontend_weights" \
        "--face_weights=$face_weights"
fi
if [[ $corpus == demo ]] && runs 0; then # the demo draws the faces itself
    face_size=$(python3 -m utils.training.preflight "--conf=$conf" "--train_args=$train_args" \
        "--face_weights=$face_weights" --print_face_size)
    if ((face_size > 0)); then corpus_args="--face_size $face_size $corpus_args"; fi
fi
if ((stop_stage >= 3)); then log "experiment $exp_dir"; fi

run_stage 0 prepare corpus corpus_dir corpus_args data_dir nj cluster max_failed force
run_stage 1 mouths data_dir conf train_args frontend_weights face_weights alignment fix_av_offset nj cluster \
    max_failed force
run_stage 2 embeddings data_dir conf train_args frontend_weights face_weights frontend_conf frontend_layer views \
    embedding_dtype embed_batch_size voice_to_mouth_dir dump_dir nj cluster id max_failed force
run_stage 3 train conf data_dir exp_dir init_exp_dir train_args frontend_weights face_weights frontend_conf \
    frontend_layer views embedding_dtype dump_dir id force
frontend_weights=$own_weights face_weights=$own_face_weights
run_stage 4 separate exp_dir test_dir test_name cue_test av_offset_sweep fallback_exp_dir frontend_weights face_weights \
    runtime subtype window_sec hop_sec batch_size out_dir preview output_rate mux asr landmarks_dir alignment audio_stream \
    min_on_screen_sec people dump_dir data_root_dir nj cluster id max_failed force
run_stage 5 score exp_dir test_dir test_name permute nj cluster max_failed force
