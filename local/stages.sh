# The stages of data preparation, for every prepare.sh: it names its speech, this file does the rest. Sourced, not run.
#
#   usage() { echo "what this prepares"; stages_help; }
#   . ROOT/local/stages.sh
#   parse_flags DEFAULTS... -- "$@"      # flags of the recipe, and over them those of the command line
#   run_stages                           # 0 to 5
#   run_stage 6 "what it does" PROGRAM FLAGS...; finish
#
# Everything is made below --data-dir, which is relative to the folder that the caller stands in.

stages_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stages_help() {
  cat <<'HELP'
stages, each of which may be repeated, and killed at any point (what is whole is kept, what is not is made again):
  0 fetch       download and unpack the corpora                       download/
  1 manifests   one line per utterance: length, transcript, speaker   data/manifests/
  2 phones      IPA of the words, normal form of gold phones          data/phones/ (or words/, chars/: see stage 0)
  3 shar        filter, split, write FLAC at 16 kHz                   data/shar/SPLIT/
  4 tokenizer   a vocabulary from the training texts                  data/lang/
  5 validate    check all of it, write a report                       data/statistics.{txt,json,html}
After that: python zipformer_crctc/train.py --manifest-dir data/shar --bpe-model data/lang

  --stage N --stop-stage N    run stages N to N (default 0 to 5)
  --nj N                      processes (default: the number of cores, 8 at most) of stages 2, 3 and 5 and of synthetic
                              speech in stage 0; without effect on downloads and in stages 1 and 4, which take one
  --data-dir D                what is made (default data); --download-dir D: what is fetched (default download)
  --python PATH               interpreter (default $PYTHON, else .venv/bin/python, else python3)
stage 0:
  --corpora "A B"             names or groups; ./prepare.sh --list shows them
  --transcripts KIND          phones (default), words or chars: what is to be recognised. Words and characters are the
                              texts themselves, without punctuation and in small letters (--lower-case False: as they are)
  --hours H                   amount of synthetic speech (default 0.5); --synthetic-languages "de fr"
  --user-data PATH            a Kaldi folder, a TSV or CSV, a folder of wav + TextGrid or wav + txt; see docs/data.md
  --user-language LL          its language, where the files do not say
  --fallback False            stop, instead of taking synthetic speech, when a corpus cannot be had
stage 3:
  --unseen-languages "LL"     languages kept out of training, as test-unseen-languages
  --heldout-utterances N      per corpus and language (default 60); likewise --dev-utterances, --unseen-speaker-share,
                              --split-seed, --shard-size, --min-seconds, --max-seconds, --min-phones-per-second,
                              --max-phones-per-second (of words and chars: --min-words-per-second...)
  --part K/N                  make every N-th shard, from the K-th on (K = 0 to N-1), as one of N machines that share a
                              filesystem; `auto` in a SLURM array, under srun or torchrun. Stage 3 without it then
                              completes the folders (docs/cluster.md)
stage 4:
  --tokenizer KIND            phones, unigram, bpe or chars (default: phones; unigram of words; chars of characters);
                              --vocab-size N; --remove-diacritics True
HELP
}

log() { echo "$(date '+%Y-%m-%d %H:%M:%S') (prepare.sh) $*" >&2; }
fail() { echo "error: $* (see ./prepare.sh --help)" >&2; exit 2; }

stage=0
stop_stage=5
cores=$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
nj=$((cores < 8 ? cores : 8))
data_dir=data
python=${PYTHON:-$([ -x "$stages_dir/../.venv/bin/python" ] && echo "$stages_dir/../.venv/bin/python" || echo python3)}
part='' fetch_flags=() shar_flags=() token_flags=() own_fetch_flags=0

parse_flags() { # parse_flags DEFAULTS... -- FLAGS...
  while [ $# -gt 0 ]; do
    flag=${1%%=*}
    case $flag in
      --) own_fetch_flags=${#fetch_flags[@]}; shift; continue ;;
      -h | --help) usage; exit 0 ;;
      --list) PYTHONPATH=$(cd "$stages_dir/.." && pwd) exec "$python" "$stages_dir/fetch_corpora.py" --list ;;
      --*) ;;
      *) fail "unexpected argument \`$1\`" ;;
    esac
    if [[ $1 == *=* ]]; then value=${1#*=}; shift
    elif [ $# -ge 2 ]; then value=$2; shift 2
    else fail "\`$flag\` must be followed by a value"; fi
    take_flag "${flag//_/-}" "$value"
  done
  check_flags
}

take_flag() { # take_flag FLAG VALUE
  local flag=$1 value=$2
  case $flag in
    --data-dir | --download-dir | --user-data | --python | --stage | --stop-stage | --nj)
      [ -n "$value" ] || fail "\`$flag\` must be followed by a value, but that is empty" ;;
  esac
  case $flag in
    --stage) stage=$value ;;
    --stop-stage) stop_stage=$value ;;
    --nj) nj=$value ;;
    --data-dir) data_dir=$value ;;
    --python) python=$value ;;
    --corpora | --synthetic-languages) fetch_flags+=("$flag" "${value// /,}") ;;
    --transcripts | --lower-case | --download-dir | --hours | --user-data | --user-language | --fallback)
      fetch_flags+=("$flag" "$value") ;;
    --unseen-languages) shar_flags+=("$flag" "${value// /,}") ;;
    --unseen-speaker-share | --heldout-share | --heldout-utterances | --dev-share | --dev-utterances | --split-seed | \
      --shard-size | --min-seconds | --max-seconds | --min-phones-per-second | --max-phones-per-second | \
      --min-words-per-second | --max-words-per-second | --min-chars-per-second | --max-chars-per-second)
      shar_flags+=("$flag" "$value") ;;
    --part) part=$value; shar_flags+=("$flag" "$value") ;;
    --tokenizer | --vocab-size | --remove-diacritics) token_flags+=("$flag" "$value") ;;
    *) fail "unknown flag \`$flag\`" ;;
  esac
}

check_flags() {
  for number in "$stage" "$stop_stage"; do
    [[ $number =~ ^[0-9]{1,4}$ ]] || fail "\`--stage\` and \`--stop-stage\` must be numbers from 0 to 5, but one is \`${number:0:40}\`"
  done
  command -v "$python" >/dev/null || fail "\`--python\` must be an interpreter, but is \`$python\`"
  [ "$stage" -eq 0 ] || [ ${#fetch_flags[@]} -eq "$own_fetch_flags" ] ||
    fail "\`${fetch_flags[$own_fetch_flags]}\` belongs to stage 0, give --stage 0"
  [ -z "$part" ] || [ "$stage-$stop_stage" = 3-3 ] || fail "\`--part\` belongs to stage 3, give --stage 3 --stop-stage 3"
  export COULOIR_PREPARE_PID=$$ # the stages of this run leave the folder to each other, and to no other run
  PYTHONPATH=$(cd "$stages_dir/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}
  export PYTHONPATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
}

run_stage() { # run_stage NUMBER "what it does" PROGRAM FLAGS...
  local number=$1 what=$2
  shift 2
  if [ "$stage" -le "$number" ] && [ "$stop_stage" -ge "$number" ]; then
    log "Stage $number: $what"
    "$python" "$@" --data-dir "$data_dir" --nj "$nj"
  fi
}

run_stages() {
  run_stage 0 "fetch" "$stages_dir/fetch_corpora.py" "${fetch_flags[@]+"${fetch_flags[@]}"}"
  run_stage 1 "manifests" "$stages_dir/make_manifests.py"
  run_stage 2 "transcripts" "$stages_dir/make_phones.py"
  run_stage 3 "Shar" "$stages_dir/make_shar.py" "${shar_flags[@]+"${shar_flags[@]}"}"
  run_stage 4 "tokenizer" "$stages_dir/train_tokenizer.py" "${token_flags[@]+"${token_flags[@]}"}"
  run_stage 5 "validation and report" "$stages_dir/validate_data.py"
}

finish() {
  [ -n "$part" ] || rm -f -- "$data_dir/.prepare.lock"
  log "done"
}
