# shellcheck shell=bash
# The options of a script, in Kaldi's grammar. Sourced with the script's own arguments:
#
#     stage=0       # the first stage to run
#     force=false   # run even what is up to date
#     . utils/parse_options.sh
#
# Every lower-case variable that the script sets above that line is an option; its comment is its meaning, its value the
# default, and --help prints the script's first comment and that list. `--name value` and `--name=value` are the same,
# and so are `-` and `_` within a name. A default of true or false makes a yes/no option (`--force` without a value is true), a
# default that is a whole number makes an option that takes only such. Values are plain text: never evaluated as shell.
# A wrong call prints one line on stderr and exits with 2.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then # macOS comes with 3.2
    printf '%s: this is bash %s; install bash 4.4 or later and put it first on PATH\n' "${BASH_SOURCE[1]##*/}" "$BASH_VERSION" >&2
    exit 1
fi

_po_script=${BASH_SOURCE[1]}
_po_names=()    # the options, in the order of the script
_po_kinds=()    # of each: switch, number or text
_po_meanings=() # of each: the comment behind it

_po_die() {
    printf '%s: %s; see --help\n' "${_po_script##*/}" "${1//[[:cntrl:]]/?}" >&2
    exit 2
}

_po_read_header() { # fill the three arrays from the lines above the one that sources this file
    local _po_line _po_name
    while IFS= read -r _po_line; do
        [[ ! $_po_line =~ ^[^#]*parse_options\.sh ]] || return 0
        [[ $_po_line =~ ^([a-z][a-z0-9_]*)= ]] || continue
        _po_name=${BASH_REMATCH[1]}
        _po_names+=("$_po_name")
        if [[ ${!_po_name} == true || ${!_po_name} == false ]]; then
            _po_kinds+=(switch)
        elif [[ ${!_po_name} =~ ^-?[0-9]+$ ]]; then
            _po_kinds+=(number)
        else
            _po_kinds+=(text)
        fi
        [[ $_po_line =~ [[:space:]]#[[:space:]]+(.*)$ ]] && _po_meanings+=("${BASH_REMATCH[1]}") || _po_meanings+=("")
    done <"$_po_script"
}

_po_help() {
    local _po_line _po_i _po_name
    while IFS= read -r _po_line && [[ $_po_line == '#'* ]]; do
        _po_line=${_po_line#\#}
        [[ $_po_line == '!'* ]] || printf '%s\n' "${_po_line# }"
    done <"$_po_script"
    printf '\nOptions, with the default in brackets:\n'
    for _po_i in "${!_po_names[@]}"; do
        _po_name=${_po_names[_po_i]}
        printf '  --%-18s %s [%s]\n' "$_po_name" "${_po_meanings[_po_i]}" "${!_po_name}"
    done
}

_po_find() { # the place of the option whose name is written $1 -> _po_index, or failure
    local _po_name=${1//-/_}
    for _po_index in "${!_po_names[@]}"; do
        [[ ${_po_names[_po_index]} != "$_po_name" ]] || return 0
    done
    return 1
}

_po_unknown() { # complain of the name $1, with the first option that begins with it, if one does
    local name nearest=""
    for name in "${_po_names[@]}"; do
        if [[ -z $nearest && -n $1 && $name == "$1"* ]]; then nearest=$name; fi
    done
    _po_die "unknown option --$1${nearest:+ (did you mean --$nearest?)}"
}

_po_set() { # give option number _po_index the value $1
    local _po_name=${_po_names[_po_index]}
    case ${_po_kinds[_po_index]} in
        switch) [[ $1 == true || $1 == false ]] || _po_die "option --$_po_name takes true or false, not ${1@Q}" ;;
        number) [[ $1 =~ ^-?(0|[1-9][0-9]{0,8})$ ]] || _po_die "option --$_po_name takes a whole number, not ${1@Q}" ;;
    esac
    printf -v "$_po_name" '%s' "$1"
}

_po_parse() {
    local _po_word _po_name _po_chosen
    while (($# > 0)); do
        _po_word=$1
        shift
        if [[ $_po_word == --help || $_po_word == -h ]]; then
            _po_help
            exit 0
        fi
        [[ $_po_word == --?* ]] || _po_die "stray word ${_po_word@Q}"
        _po_name=${_po_word%%=*}
        _po_name=${_po_name#--}
        _po_find "$_po_name" || _po_unknown "${_po_name//-/_}"
        _po_chosen=$_po_index
        if [[ $_po_word == *=* ]]; then
            _po_set "${_po_word#*=}"
        elif [[ ${_po_kinds[_po_index]} == switch ]] && [[ $# -eq 0 || $1 == --* ]]; then
            _po_set true
        elif (($# == 0)); then
            _po_die "option --$_po_name needs a value"
        elif [[ $1 == --help ]] || { [[ $1 == --* ]] && _po_find "${1#--}"; }; then
            _po_die "option --$_po_name needs a value (for the text $1 itself write --$_po_name=$1)"
        else
            _po_index=$_po_chosen
            _po_set "$1"
            shift
        fi
    done
}

_po_read_header
_po_parse "$@"
