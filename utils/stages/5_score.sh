#!/usr/bin/env bash
# Stage 5, score: SI-SNR, SDR, PESQ, STOI of separated voices and their improvement over the mixture.
#
# Reads <exp_dir>/separated/<test name>/ (stage 4) and the references; writes <exp_dir>/results/<test name>/ with
# all_metrics.csv, final_metrics.json, RESULTS.md, histogram.png, examples/, and log/5_score.log.
#   utils/stages/5_score.sh --exp_dir exp/avdprnn_demo --test_name demo_test
# Or alone, on any folders of sound files that hold s1/, s2/ ... and match by name:
#   utils/stages/5_score.sh --mixture_dir M --reference_dir R --estimate_dir E --out_dir O
set -euo pipefail

exp_dir=       # folder of the experiment
test_name=     # name of the test below <exp_dir>/separated
mixture_dir=   # alone: the unprocessed mixtures; empty: no improvements
reference_dir= # alone: the references
estimate_dir=  # alone: the separated voices
out_dir=       # alone: where the results go
permute=false  # assign the voices to the references by the best mean SI-SNR
nj=$(nproc)    # processes
max_failed=0   # mixtures that may fail before the stage does
force=false    # score again although nothing changed

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -f $ROOT/utils/parse_options.sh ]] || ROOT=${SLURM_SUBMIT_DIR:-$PWD} # sbatch runs a copy of this file
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"
. utils/log.sh

[[ -n $exp_dir || -n $out_dir ]] || usage_error "--exp_dir and --test_name, or --out_dir and the folders are needed"
[[ -z $exp_dir || -d $exp_dir ]] || die "--exp_dir $exp_dir: no such folder; stage 3 makes it"
start_program "${out_dir:-$exp_dir}/log/5_score.log" score exp_dir test_name mixture_dir reference_dir estimate_dir \
    out_dir permute nj max_failed force
