# shellcheck shell=bash
# Lines for people, and how a stage's program is started. Sourced by run.sh and the stage scripts.

_one_line() { # WORD... -> _line: a name may hold a line break, or what a terminal obeys
    _line=$*
    _line=${_line//[[:cntrl:]]/?}
}

log() {
    _one_line "$@"
    printf '%(%F %T)T %s\n' -1 "$_line" >&2
}

die() { # one line, exit 1: something the user can mend
    _one_line "$@"
    printf 'error: %s\n' "$_line" >&2
    exit 1
}

usage_error() { # one line, exit 2: a call that can never work
    _one_line "$@"
    printf '%s: %s; see --help\n' "${0##*/}" "$_line" >&2
    exit 2
}

# start_program LOG MODULE OPTION...: becomes `python3 -m utils.stages.MODULE` with the named options of the script and
# a copy of all that it prints in LOG. An option that is empty or false is left out (that is the programs' default too);
# `id` becomes CUDA_VISIBLE_DEVICES.
start_program() {
    local _log=$1 _module=$2 _name
    local -a _arguments=()
    shift 2
    for _name in "$@"; do
        case $_name:${!_name} in
            *: | *:false) ;;
            id:cpu) export CUDA_VISIBLE_DEVICES=-1 ;;
            id:*) export CUDA_VISIBLE_DEVICES=${!_name} ;;
            force:*) _arguments+=(--force) ;;
            *) _arguments+=("--$_name=${!_name}") ;;
        esac
    done
    # shellcheck source=path.sh
    . ./path.sh
    # the programs refuse paths that are not UTF-8; here that is said before a folder of such a name is made for the log
    [[ $_log =~ ^.*$ ]] || die "$(printf '%q' "$_log"): the path is not UTF-8; rename the folder, or give another"
    exec python3 -E -S utils/stages/logged.py "$_log" python3 -m "utils.stages.$_module" "${_arguments[@]}"
}
