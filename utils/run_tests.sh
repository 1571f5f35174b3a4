#!/usr/bin/env bash
# Every check of the recipe: style, shell scripts, unit tests, then the whole recipe on tiny corpora.
#
#   utils/run_tests.sh            everything, some 20 minutes on two cores
#   utils/run_tests.sh --quick    without the whole recipe
#
# Makes the environment when it is not there (see path.sh) and adds the test tools of requirements-dev.txt to it. Writes
# nothing else into the tree. Exit code 0: all passed.
set -euo pipefail

quick=false # leave out the run of the whole recipe

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/utils/parse_options.sh"
cd -- "$ROOT"
. utils/log.sh
. ./path.sh

if ! missing=$(python3 utils/environment.py check requirements-dev.txt); then
    log "adding the test tools to $(dirname "$(dirname "$(command -v python3)")"): ${missing//$'\n'/, }"
    python3 -m pip install --quiet --no-input --disable-pip-version-check -r requirements-dev.txt
fi
for file in requirements-{cluster,demo,onnx}.txt egs/{avspeech,voxceleb2,wav2kp}/requirements.txt; do # with -video
    utils/install_more.sh "$file"
done

outcomes=()
failed=0
whole_recipe=(tests/test_pipeline.py tests/test_corpora_all_stages.py)

check() { # name, command...: run it and note how it went
    local name=$1 started=$SECONDS outcome=passed
    shift
    log "$name: $*"
    if ! "$@"; then
        outcome=FAILED
        failed=1
    fi
    outcomes+=("$(printf '%-15s %s in %d s' "$name" "$outcome" $((SECONDS - started)))")
}

mapfile -t scripts < <(find . \( -name .git -o -name .venv -o -path ./data -o -path ./dump -o -path ./exp \) -prune \
    -o \( -name '*.sh' -o -path ./.ci/run \) -print | sort)
check ruff python3 -m ruff check .
check shellcheck shellcheck "${scripts[@]}"
export OMP_NUM_THREADS=1 # two tests at once, which would wait for each other's threads
check "unit tests" python3 -m pytest --numprocesses 2 --dist loadfile --timeout 600 "${whole_recipe[@]/#/--ignore=}"
if [[ $quick == false ]]; then
    check "whole recipe" python3 -m pytest --numprocesses 2 --dist loadfile --timeout 1200 "${whole_recipe[@]}"
fi

printf '\n'
printf '%s\n' "${outcomes[@]}"
if ((failed != 0)); then
    printf 'some checks FAILED\n'
    exit 1
fi
printf 'all checks passed\n'
