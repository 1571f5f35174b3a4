# shellcheck shell=bash
# The environment. Sourced by run.sh and by every stage: `. ./path.sh` puts the right python3 first on PATH.
#
# The active environment (conda, venv, else the system's python3) is used when it satisfies requirements.txt; otherwise
# .venv, which is made the first time: about 5 GB, a minute or more. Afterwards this costs well under 0.3 s.

_avsep_environment() {
    local root=$1 ours=$1/.venv/bin/python3 active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}} wanted python made="" lacks=""
    wanted=$(sha256sum <"$root/requirements.txt") || return 1
    wanted=${wanted%% *}
    python=$(command -v python3 || true)
    if [[ ${AVSEP_ENVIRONMENT:-} == "$wanted $python" ]]; then
        return 0 # sourced before
    fi

    [[ ! -x $active/bin/python3 ]] || python=$active/bin/python3
    [[ ! -r $root/.venv/.requirements ]] || made=$(<"$root/.venv/.requirements")
    if [[ $made == "$wanted" && -x $ours && (-z $active || $active == "$root/.venv") ]]; then
        python=$ours # nothing else was asked for, and ours is whole
    elif [[ -z $python ]] || ! lacks=$("$python" "$root/utils/environment.py" check "$root/requirements.txt" 2>/dev/null); then
        if [[ $made != "$wanted" || ! -x $ours ]]; then
            lacks=${lacks%%$'\n'*}
            [[ -z $python ]] || echo "path.sh: $python does not satisfy requirements.txt: ${lacks:-too old}" >&2
            bash "$root/utils/make_venv.sh" "$wanted" || return 1
        fi
        python=$ours
    fi

    if [[ $python == "$ours" ]]; then
        export VIRTUAL_ENV=$root/.venv
        unset PYTHONHOME
    fi
    [[ $(command -v python3) == "$python" ]] || export PATH=${python%/*}:$PATH
    export AVSEP_ENVIRONMENT="$wanted $python"
    echo "path.sh: using $python" >&2
}

_avsep_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
if ! _avsep_environment "$_avsep_root"; then
    unset -f _avsep_environment
    unset -v _avsep_root
    return 1
fi
[[ :${PYTHONPATH:-}: == *":$_avsep_root:"* ]] || export PYTHONPATH=$_avsep_root${PYTHONPATH:+:$PYTHONPATH}
export LC_ALL=C.UTF-8
if [[ -z ${OMP_NUM_THREADS:-} ]]; then
    # All cores of the job; beyond 16 these small networks only lose time to synchronisation.
    OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-$(nproc)}
    ((OMP_NUM_THREADS <= 16)) || OMP_NUM_THREADS=16
    export OMP_NUM_THREADS
fi
# What glibc has from the system stays for the next tensor: fetched anew each time it costs networks on a CPU a quarter.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-33554432} # bytes; the largest value that it takes
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-268435456}
unset -f _avsep_environment
unset -v _avsep_root
