#!/usr/bin/env bash
# Stage 5, score: SI-SNR, SDR, PESQ, STOI of estimates and their improvement over the mixture.
#
# Reads <exp_dir>/separated/<test name>/ (stage 4) and the references; writes <exp_dir>/results/<test name>/ with
# all_metrics.csv, final_metrics.json, RESULTS.md, histogram.png, examples/, and log/5_score.log.
#   utils/stages/5_score.sh --exp_dir exp/demo_demo --test_name demo_test
# Or on any folders of sound files that hold s1/, s2/ ... and match by name; the log is <out_dir>/log/5_score.log then:
#   utils/stages/5_score.sh --mixture_dir M --reference_dir R --estimate_dir E --out_dir O
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/path.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
cd -- "$ROOT"
. ./path.sh
exec python3 -E -S utils/stages/logged.py 5_score python3 -m utils.stages.score "$@"
