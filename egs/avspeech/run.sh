#!/usr/bin/env bash
# The recipe on AVSpeech: ./egs/avspeech/run.sh --corpus_dir DIR [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus avspeech --conf conf/looking_to_listen.yml \
    --max_failed 1000000 "$@" # videos of the web go, and faces turn away
