# shellcheck shell=bash
# What run.sh and separate.sh must know before their first program: the name of the experiment, and whether the paths that
# they were given exist. Sourced after utils/log.sh; needs no Python, so that a wrong path fails at once.

experiment_tag() { # CONF CORPUS TRAIN_ARGS -> <conf>_<corpus>[_<overrides>], always the same for the same words
    local tag text=${3//[[:space:]]--/_} readable
    tag=${1##*/}
    tag=${tag%.*}_$2
    text=${text#--}
    readable=${text//[[:space:]=]/}
    readable=${readable//[^A-Za-z0-9._+-]/-}
    if [[ -n $text && (${#readable} -gt 40 || ${readable//-/} != "${text//[[:space:]=-]/}") ]]; then
        readable=${readable:0:30}_$(printf '%s' "$3" | sha256sum | cut -c1-8) # two overrides never share a tag
    fi
    printf '%s' "$tag${readable:+_$readable}"
}

first_writable() { # NAME FOLDER...: the first folder that exists or can be made, and can be written to -> NAME, or failure
    local _folder
    for _folder in "${@:2}"; do
        if mkdir -p -- "$_folder" 2>/dev/null && [[ -w $_folder ]]; then
            printf -v "$1" '%s' "$_folder"
            return
        fi
    done
    return 1
}

work_dir() { # NAME OUT_DIR: the folder of work files -> NAME: dump, the user's cache, or below OUT_DIR
    local -a _dirs=(dump)
    [[ ${XDG_CACHE_HOME:-} != /* ]] || _dirs+=("$XDG_CACHE_HOME/avsep")
    [[ ! -d ${HOME:-} ]] || _dirs+=("$HOME/.cache/avsep") # one that does not exist is not made
    first_writable "$1" "${_dirs[@]}" "$2/.cache"
}

check_corpus() { # CORPUS CORPUS_DIR
    [[ -f egs/$1/prepare.py ]] || die "--corpus $1: there is no egs/$1/prepare.py; corpora: $(names_in egs/*/prepare.py)"
    [[ -z $2 || -e $2 ]] || die "--corpus_dir $2: no such folder"
}

check_conf() { # CONF
    [[ -f $1 ]] || die "--conf $1: no such file; there are: $(printf '%s ' conf/*.yml)"
}

check_weights() { # FRONTEND_WEIGHTS; whether any are needed says utils/training/preflight.py
    [[ -z $1 || -e $1 ]] || die "--frontend_weights $1: no such file or folder; utils/download_weights.sh fetches public ones"
}

check_test_dir() { # TEST_DIR
    [[ -e $1 ]] || die "--test_dir $1: no such file or folder; a corpus' data/<corpus>/test.csv is made by stage 0"
}

check_experiment() { # EXP_DIR; that a hub has it is found out by fetch_experiment
    local found
    [[ $1 != hf://* && ! -f $1/best_model.pth && ! -f $1/model.safetensors ]] || return 0
    found=$(names_in exp/*/best_model.pth exp/*/model.safetensors)
    die "$1/best_model.pth: no such file; stage 3 makes it. ${found:+Trained experiments in exp/: $found. }Choose one" \
        "with --tag NAME or --exp_dir DIR"
}

fetch_experiment() { # NAME HUB_DIR...: a hub's network, where $NAME is an hf:// address, is fetched below the first folder
    local _hub_dir        # that can be written, and $NAME becomes its folder; needs the environment of path.sh
    [[ ${!1} == hf://* ]] || return 0
    first_writable _hub_dir "${@:2}" || die "${*:2}: none of these folders can be written, so ${!1} cannot be fetched"
    printf -v "$1" '%s' "$(python3 -m utils.tools.fetch "--exp_dir=${!1}" "--hub_dir=$_hub_dir")"
    [[ -n ${!1} ]] || exit 1 # it has said why
}

names_in() { # FOLDER/NAME/FILE... -> "NAME, NAME"
    local file names=""
    for file in "$@"; do
        [[ ! -e $file ]] || names+=${names:+, }$(basename -- "$(dirname -- "$file")")
    done
    printf '%s' "$names"
}

continue_command() { # STAGE WORD...: the words that called run.sh, from that stage on, to be pasted into a shell
    local stage=$1
    local -a words=()
    shift
    while (($# > 0)); do
        case $1 in
            --stage) (($# == 1)) || shift ;;
            --stage=*) ;;
            *) words+=("$1") ;;
        esac
        shift
    done
    printf '%q ' "${words[@]}"
    printf -- '--stage %s' "$stage"
}

report_failure() { # STAGE STATUS LOG COMMAND: the last line of a run that did not end well; exits
    local where="" what=failed code=1
    [[ ! -f $3 ]] || where="; log: $3"
    if (($2 == 130)); then
        what=interrupted code=130
    elif (($2 == 2)); then
        code=2
    fi
    log "stage $1 $what$where; to continue: $4"
    exit "$code"
}
