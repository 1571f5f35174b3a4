#!/usr/bin/env bash
# Stage 4, separate: the mixtures of a test set, or videos, become one estimate for each speaker.
#
# Reads <exp_dir>/best_model.pth (stage 3) and --test_dir, a folder with audio/mix and mouths/ or a prepared CSV; its
# table and embeddings are made when missing. Writes <exp_dir>/separated/<test name>/{s1,s2}/<mixture>.wav,
# separated.csv, failed.csv, and <exp_dir>/log/4_separate.log. An interrupted call goes on where it stopped.
# --test_dir may also be a video or a folder of videos: <exp_dir>/separated/<test name>/<video>/{face1,face2,rest}.wav,
# tracks.json and face1.png are written then; with --out_dir they and log/4_separate.log go there.
#   utils/stages/4_separate.sh --exp_dir exp/demo_demo --test_dir /data/meetings
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/path.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
cd -- "$ROOT"
. ./path.sh
exec python3 -E -S utils/stages/logged.py 4_separate python3 -m utils.stages.separate "$@"
