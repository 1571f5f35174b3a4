#!/usr/bin/env bash
# MUSAN becomes folders of noise, for --noise_dir: ./egs/musan/run.sh --corpus_dir /data/musan. There is nothing else to run.
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus musan --stop_stage 0 "$@"
