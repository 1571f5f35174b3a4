# shellcheck shell=bash
# Lines for people. Sourced by run.sh, separate.sh and the scripts of utils/.

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
