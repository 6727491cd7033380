#!/usr/bin/env bash
# English and Russian words: prompts of a telephone exchange and read sentences. Run with --help first.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "${COULOIR_WORK_DIR:-$here}" # below which data lies

usage() {
  cat <<'HELP'
usage: egs/words_en_ru/prepare.sh [any flag of prepare.sh]

Prepares 2.3 h of English and Russian speech for a recogniser of words. Your own recordings instead:

  egs/words_en_ru/prepare.sh --corpora user --user-data ~/speech

HELP
  stages_help
}

. "$here/../../local/stages.sh"
parse_flags --corpora "asterisk-en asterisk-ru festvox-ru" --transcripts words --tokenizer unigram -- "$@"
run_stages
finish
