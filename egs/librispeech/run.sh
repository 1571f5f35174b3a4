#!/usr/bin/env bash
# Speech without faces, listed: ./egs/librispeech/run.sh --corpus_dir /data/LibriSpeech/train-clean-100
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus librispeech --stage 0 --stop_stage 0 "$@"
