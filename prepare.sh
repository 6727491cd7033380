#!/usr/bin/env bash
# From corpora by name, or a folder of your own, to Shar folders, a tokenizer and a report. Run with --help first.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "${COULOIR_WORK_DIR:-$root}" # below which data lies; `couloir prepare` gives the folder where it was called

usage() {
  cat <<'HELP'
usage: ./prepare.sh [--corpora "NAME ..."] [--user-data PATH] [--stage N] [--stop-stage N] [--nj N] [more flags]

Prepares speech for training. With no flags it fetches festvox-ru (Russian, 1.66 h, phones labelled by hand; 178 MB).

  ./prepare.sh                                              the default corpus
  ./prepare.sh --corpora "human"                            all real speech that can be fetched (9 h, 13 languages)
  ./prepare.sh --corpora synthetic --hours 0.2              12 minutes of espeak-ng, offline, in a minute
  ./prepare.sh --user-data ~/speech --user-language sw      your own recordings
  ./prepare.sh --user-data ~/speech --transcripts words     your own recordings, for a recogniser of words
  ./prepare.sh --corpora "tuxpaint asterisk" --unseen-languages "ro el"

HELP
  stages_help
}

. "$root/local/stages.sh"
parse_flags -- "$@"
run_stages
finish
