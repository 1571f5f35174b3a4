#!/usr/bin/env bash
# A network for people whom it has never seen, as that of ./separate.sh: trainings that begin where the one before ended.
#
#   ./egs/several/unseen.sh --corpus_dir data/glips --corpus_args "--also data/grid --speech_dir LIBRISPEECH" \
#       --frontend_weights FILE --noise_dir NOISE --rir_dir ROOMS
#
# First voices are separated without faces, in segments of a second (conf/av_tfdprnn_pretrain.yml), then in longer ones
# (conf/av_tfdprnn_longer.yml); then it is learned whose voice is whose (conf/av_tfdprnn_match.yml); then the visual frontend,
# LR-ASD, is tuned for that (utils.tools.tune_frontend), and it is learned again from what the frontend shows now. What is up
# to date is skipped, what was interrupted goes on. OUT_DIR gets the network and the frontend for others (docs/sharing.md).
set -euo pipefail

corpus_dir=       # data/<corpus> of the first prepared corpus
corpus_args=      # further options of egs/several/prepare.py: --also, --speech_dir
noise_dir=        # folder of noise, mono, 16 kHz; empty: none, and a voice in noise is not learned to be separated from it
rir_dir=          # folder of room impulse responses; empty: none
train_args=       # keys of all three confs to change, e.g. "--epochs 2"
tune_args=        # options of utils.tools.tune_frontend to change, e.g. "--epochs 2"
publish_args=     # options of utils.tools.publish, e.g. "--corpora glips,grid,librispeech --licence cc-by-nc-4.0"
frontend_weights= # LR-ASD
tag=unseen        # the experiments are exp/<tag>_1 to _4, and <tag>_frontend
out_dir=          # gets the network; empty: exp/<tag>
nj=$(nproc)       # processes for what runs on the CPU
id=               # GPUs, e.g. 0 or 0,1; cpu: none; empty: all that are visible
max_failed=0      # items of a stage that may fail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"

if [[ -n $noise_dir ]]; then
    printf -v noise '%q' "$noise_dir"
    train_args="--noise_dir $noise --noise_prob 0.15 --noise_snr_low_db 5 --noise_source_prob 0.1 $train_args"
fi
if [[ -n $rir_dir ]]; then
    printf -v rooms '%q' "$rir_dir"
    train_args="--rir_dir $rooms --rir_prob 0.1 $train_args"
fi
recipe=(./run.sh --corpus several "--train_args=$train_args" "--nj=$nj" "--id=$id" "--max_failed=$max_failed")
"${recipe[@]}" --stop_stage 3 "--corpus_dir=$corpus_dir" "--corpus_args=$corpus_args" \
    --conf conf/av_tfdprnn_pretrain.yml --tag "${tag}_1" "--frontend_weights=$frontend_weights"
recipe+=(--stage 2 --stop_stage 3)
"${recipe[@]}" --conf conf/av_tfdprnn_longer.yml --tag "${tag}_2" --init_exp_dir "exp/${tag}_1" \
    "--frontend_weights=$frontend_weights"
recipe+=(--conf conf/av_tfdprnn_match.yml "--views=centre,varied1,varied2,varied5")
"${recipe[@]}" --tag "${tag}_3" --init_exp_dir "exp/${tag}_2" "--frontend_weights=$frontend_weights"
. ./path.sh
read -ra tuning <<<"$tune_args"
python3 -m utils.tools.tune_frontend --data_dir data/several "--exp_dir=exp/${tag}_3" "--out_dir=exp/${tag}_frontend" \
    "--frontend_weights=$frontend_weights" "--id=$id" "${tuning[@]}"
"${recipe[@]}" --tag "${tag}_4" --init_exp_dir "exp/${tag}_frontend" --frontend_weights "exp/${tag}_frontend/frontend.pth"
read -ra publishing <<<"$publish_args"
python3 -m utils.tools.publish "--exp_dir=exp/${tag}_4" "--out_dir=${out_dir:-exp/$tag}" "${publishing[@]}"
