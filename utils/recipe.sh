# shellcheck shell=bash
# What run.sh must know before its first stage: names of experiments and tests, and whether the paths it was given lead
# anywhere. Sourced by run.sh after utils/log.sh; needs no Python, so that a wrong path fails at once.

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

name_of_test() { # TEST_DIR -> the folder's name, <corpus>_<split> of <corpus>/<split>.csv, or a video's name
    local path folder
    IFS= read -r -d '' path < <(realpath -zms -- "$1") # a link has a name of its own
    folder=${path%/*}
    if [[ $path == *.csv && ! -d $path ]]; then
        path=${path%.csv}
        path=${folder##*/}_${path##*/}
    elif [[ -f $path ]]; then
        path=${path%.*}
    fi
    printf '%s' "${path##*/}"
}

video_suffixes='mp4|m4v|mov|mkv|webm|avi|mpg|mpeg|mpe|m2v|vob|ts|mts|m2ts|flv|f4v|wmv|asf|ogv|3gp|3g2'

is_video_set() { # TEST_DIR: a file that is no table, or a folder of videos (not of the DLA layout), as stage 4 has it
    [[ -f $1 && $1 != *.[cC][sS][vV] ]] && return
    [[ -d $1 && ! -d $1/audio ]] || return
    [[ $1 == /* ]] || set -- "./$1" # find would take a name with a dash for a test
    [[ -n $(find -L "$1" -maxdepth 1 -type f ! -name '.*' -regextype posix-extended \
        -iregex ".*\.($video_suffixes)" -print -quit) ]]
}

first_writable() { # NAME FOLDER...: the first folder that is there or can be made, and be written -> NAME, or failure
    local _folder
    for _folder in "${@:2}"; do
        if mkdir -p -- "$_folder" 2>/dev/null && [[ -w $_folder ]]; then
            printf -v "$1" '%s' "$_folder"
            return
        fi
    done
    return 1
}

is_audio_only() { # CONF TRAIN_ARGS [DEPTH]: does the model see no faces (n_cues: 0)?
    local override='.*--n_faces[=[:space:]]+([0-9]+)' base # the last one counts
    if [[ ${2//n-cues/n_cues} =~ $override ]]; then
        ((BASH_REMATCH[1] == 0))
    elif grep -Eqs '^[^#]*\<n_cues:' -- "$1"; then
        grep -Eqs '^[^#]*\<n_cues:[[:space:]]*0([^0-9]|$)' -- "$1"
    else # what its base says
        base=$(sed -nE "s/^base:[[:space:]]*[\"']?([^#[:space:]\"']+).*/\1/p" -- "$1" 2>/dev/null | head -n 1)
        [[ -n $base ]] && ((${3:-0} < 8)) && is_audio_only "$(dirname -- "$1")/$base" "" $((${3:-0} + 1))
    fi
}

check_corpus() { # CORPUS CORPUS_DIR
    [[ -f egs/$1/prepare.py ]] || die "--corpus $1: there is no egs/$1/prepare.py; corpora: $(names_in egs/*/prepare.py)"
    [[ -z $2 || -e $2 ]] || die "--corpus_dir $2: no such folder"
}

check_conf() { # CONF
    [[ -f $1 ]] || die "--conf $1: no such file; there are: $(printf '%s ' conf/*.yml)"
}

check_weights() { # FRONTEND_WEIGHTS
    [[ -n $1 ]] || usage_error "--frontend_weights FILE is needed: the lip reader's checkpoint" \
        "(utils/download_weights.sh fetches public ones); or train without faces: --conf conf/av_tfdprnn_audio_only.yml"
    [[ -e $1 ]] || die "--frontend_weights $1: no such file or folder; utils/download_weights.sh fetches public ones"
}

check_test_dir() { # TEST_DIR
    [[ -e $1 ]] || die "--test_dir $1: no such file or folder; a corpus' data/<corpus>/test.csv is made by stage 0"
}

check_experiment() { # EXP_DIR
    local found
    [[ ! -f $1/best_model.pth ]] || return 0
    found=$(names_in exp/*/best_model.pth)
    die "$1/best_model.pth: no such file; stage 3 makes it. ${found:+Trained experiments in exp/: $found. }Choose one" \
        "with --tag NAME or --exp_dir DIR"
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
