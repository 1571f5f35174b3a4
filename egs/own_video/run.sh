#!/usr/bin/env bash
# The recipe on your own videos: ./egs/own_video/run.sh --corpus_dir DIR --frontend_weights FILE [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus own_video "$@"
