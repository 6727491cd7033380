#!/usr/bin/env bash
# From nothing to a phone recogniser: set up, fetch real speech, prepare it, train a small Zipformer, average its
# checkpoints, decode speech that was held out, and transcribe a recording to IPA.
#   ./demo.sh            at most 20 minutes on two CPU cores (a GPU is used when there is one)
#   ./demo.sh --quick    about 3 minutes: the same steps, a weaker model
# Stop it at any point and start it again: what is done stays done. Everything it makes lies in demo/.
set -euo pipefail
cd "$(dirname "$0")"
case "${1:-}" in
    "") minutes=15.5 exp=demo/exp ;;
    --quick) minutes=1.2 exp=demo/exp-quick ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] || [ "$1" = -h ] && exit 0; exit 2 ;;
esac
. ./setup.sh
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

corpus=festvox-ru config=egs/festvox_ru/tiny.yaml
if ! command -v apt-get >/dev/null; then
    say "no apt-get here: the synthetic corpus takes the place of festvox-ru"
    corpus=synthetic
fi
say "1. Prepare $corpus"
PYTHON=$PYTHON ./prepare.sh --corpora "$corpus" --data-dir "demo/$corpus" --download-dir demo/download

say "2. Train for $minutes minutes (settings: $config)"
"$PYTHON" zipformer_crctc/train.py --config "$config" --time-budget-minutes "$minutes" --exp-dir "$exp/$corpus" \
    --manifest-dir "demo/$corpus/shar" --bpe-model "demo/$corpus/lang/bpe.model"

say "3. Average the checkpoints and decode held-out speech"
"$PYTHON" zipformer_crctc/ctc_decode.py --exp-dir "$exp/$corpus"

say "4. Transcribe one recording"
"$PYTHON" zipformer_crctc/transcribe.py --exp-dir "$exp/$corpus" tests/data/ru_*.flac
echo
echo "The report with plots:     $exp/$corpus/ctc-greedy-search/report.html"
echo "Training curves:           .venv/bin/tensorboard --logdir $exp/$corpus/tensorboard"
