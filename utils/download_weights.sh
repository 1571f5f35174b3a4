#!/usr/bin/env bash
# Fetch a public visual frontend for --frontend_weights: a word lip reader (lip-reading TCN family, trained on LRW), or LR-ASD.
# Reads the network; writes OUT_DIR/NAME.pth.tar (whole or absent; a broken download goes on where it stopped).
#   utils/download_weights.sh lrw_resnet18_mstcn [OUT_DIR]
set -euo pipefail

readme=https://github.com/mpc001/Lipreading_using_Temporal_Convolutional_Networks#model-zoo
names=(lrw_resnet18_mstcn lrw_resnet18_dctcn lrw_resnet18_dctcn_boundary lrw_snv1x_dsmstcn3x lrw_snv1x_tcn2x
    lrw_snv1x_tcn1x lrw_snv05x_tcn2x lrw_snv05x_tcn1x lr_asd_talkset)
declare -A drive_ids=( # in the authors' Google Drive, where known
    [lrw_resnet18_mstcn]=1vqMpxZ5LzJjg50HlZdj_QFJGm2gQmDUD
    [lrw_resnet18_dctcn]=179NgMsHo9TeZCLLtNWFVgRehDvzteMZE
    [lrw_resnet18_dctcn_boundary]=1TGFG0dW5M3rBErgU8i0N7M1ys9YMIvgm
)

declare -A urls=( # elsewhere
    [lr_asd_talkset]=https://github.com/Junhua-Liao/LR-ASD/raw/main/weight/finetuning_TalkSet.model
)
declare -A digests=( # sha256, where known
    [lr_asd_talkset]=6b4ef53694e874e96cf630198dc479c78aebb3993bbf166aee3d926dfe7d9342
)

usage() {
    cat <<EOF
Usage: utils/download_weights.sh [options] NAME [OUT_DIR]     (OUT_DIR: default dump/weights)

  --drive_id ID    the file's id in Google Drive, where this script does not know it
  --base_url URL   fetch URL/NAME.pth.tar from a mirror of your own instead
  --sha256 HEX     refuse a file with another sha256 (the authors publish none; the file's own is printed)
  --help           this text

NAME, and whether its address is known here:
EOF
    local name
    for name in "${names[@]}"; do
        if [[ -n ${drive_ids[$name]:-}${urls[$name]:-} ]]; then echo "  $name"; else echo "  $name (not known: needs --drive_id)"; fi
    done
    cat <<EOF

README of the authors, with the links: $readme
In a link drive.google.com/file/d/ID/view the part ID is the file's id. A file that a browser fetched is as good:
give it to run.sh as --frontend_weights FILE.
EOF
}

fail() { # message, exit code
    echo "error: $1" >&2
    exit "${2:-1}"
}

sha256_of() {
    # from stdin: of a file whose name has a backslash they would print a backslash before the digest
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi <"$1" | cut -d' ' -f1
}

fetch() { # continue $part from $url; sets $code (curl's) and $status (HTTP's)
    local show=-s
    if [[ -t 2 ]]; then show=-#; fi
    code=0
    status=$(curl -fL "$show" --connect-timeout 20 --retry 2 -C - -o "$part" -w '%{http_code}' "$url") || code=$?
}

refuse_if_no_checkpoint() {
    local start
    case $(head -c 2 "$part" | od -An -tx1 | tr -d ' ') in
        504b | 8002) return ;; # a zip, or a pickle of protocol 2: what torch.save writes
    esac
    start=$(head -c 512 "$part" | tr -d '\0[:space:]' | tr '[:upper:]' '[:lower:]')
    rm -f "$part"
    case $start in
        '<!doctype'* | '<html'*)
            fail "$host sent a web page instead of the file (a login, or too many downloads today); try later, or fetch it with a browser: $readme"
            ;;
    esac
    fail "$url: what came is no torch checkpoint; see $readme"
}

drive_id="" base_url="" sha256="" words=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --drive_id | --drive-id | --base_url | --base-url | --sha256)
            [[ $# -ge 2 ]] || fail "$1 needs a value (see --help)" 2
            option=${1#--}
            printf -v "${option//-/_}" '%s' "$2"
            shift 2
            ;;
        -*) fail "unknown option $1 (see --help)" 2 ;;
        *) words+=("$1") && shift ;;
    esac
done
[[ ${#words[@]} -ge 1 ]] || fail "no NAME given (see --help)" 2
[[ ${#words[@]} -le 2 ]] || fail "stray word '${words[2]}' (see --help)" 2
name=${words[0]}
[[ " ${names[*]} " == *" $name "* ]] || fail "'$name' is no known network; known: ${names[*]}" 2
file=${words[1]:-dump/weights}/$name.pth.tar
part=${file%/*}/.tmp-$name.pth.tar

if [[ ! -f $file ]]; then
    drive_id=${drive_id:-${drive_ids[$name]:-}}
    if [[ -n $base_url ]]; then
        url=$base_url/$name.pth.tar
    elif [[ -z $drive_id && -n ${urls[$name]:-} ]]; then
        url=${urls[$name]}
    elif [[ -n $drive_id ]]; then
        url="https://drive.usercontent.google.com/download?id=$drive_id&export=download&confirm=t"
    else
        fail "the address of $name is not known here: take its Google Drive link from $readme and give its id with --drive_id, or fetch it with a browser and give the file to run.sh as --frontend_weights"
    fi
    host=$(cut -d/ -f3 <<<"$url")
    command -v curl >/dev/null || fail "curl is not installed; install it, or fetch $url with a browser as $file"
    mkdir -p "${file%/*}" 2>/dev/null || fail "${file%/*}: cannot be made"
    if [[ $name == lr_asd* ]]; then
        echo "LR-ASD (MIT licence, https://github.com/Junhua-Liao/LR-ASD), fetched from $host" >&2
    else
        cat >&2 <<EOF
The weights of $name belong to their authors: for research and benchmarking only, not for commercial use, not to be
passed on (LICENSE in the repository of $readme).
EOF
    fi
    fetch
    if [[ -s $part && ($code == 33 || $status == 416) ]]; then # cannot resume, or there was nothing more to send
        rm -f "$part"
        fetch
    fi
    case $code in
        0) ;;
        5 | 6 | 7 | 28 | 35) fail "$host cannot be reached (curl $code): no network? Fetch $name on a machine that has one, and give the file to run.sh as --frontend_weights" ;;
        23) fail "$part: cannot be written (curl 23); make room there, or give another OUT_DIR; the same command continues" ;;
        22) fail "$url: the server does not give the file (HTTP $status): moved, or too many downloads today; see $readme" ;;
        *) fail "$url: the download broke off (curl $code); the same command continues it" ;;
    esac
    refuse_if_no_checkpoint
else
    part=$file
fi
sha256=${sha256:-${digests[$name]:-}}
digest=$(sha256_of "$part")
if [[ -n $sha256 && $sha256 != "$digest" ]]; then
    fail "$part: its sha256 is $digest, not $sha256; delete it and fetch it again"
fi
if [[ $part != "$file" ]]; then mv "$part" "$file"; fi
echo "$file (sha256 $digest): use it with ./run.sh --frontend_weights $file"
