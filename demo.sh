#!/usr/bin/env bash
# From nothing to a phone recogniser: set up, fetch real speech, prepare it, train a small Zipformer, average its
# checkpoints, decode speech that was held out, and transcribe a recording to IPA.
#   ./demo.sh            at most 20 minutes on two CPU cores (a GPU is used when there is one)
#   ./demo.sh --quick    5 to 7 minutes with set-up: the same steps, 430 batches, a weaker model
#   ./demo.sh --all      an hour and a half: a transducer, one with a CTC head, and CTC with an attention decoder too;
#                        then a table of every decoding method
# MINUTES=60 ./demo.sh trains each model for as long as that instead of 15.5 minutes.
# Stop it at any point and start it again: what is done stays done. Everything it makes lies in demo/.
set -euo pipefail
cd "$(dirname "$0")"
mode=${1:-}
case "$mode" in
    "" | --all) minutes=${MINUTES:-15.5} exp=demo/exp flags=() ;;
    # Too short for CR-CTC, whose two views cost two passes; so many batches, as fewer recognise next to nothing.
    --quick) minutes=${MINUTES:-0} exp=demo/exp-quick flags=(--use-cr-ctc False --save-every-n 20 --max-steps 430) ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; [ "$mode" = --help ] || [ "$mode" = -h ] && exit 0; exit 2 ;;
esac
. ./setup.sh
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

corpus=festvox-ru
if ! command -v apt-get >/dev/null; then
    say "no apt-get here: the synthetic corpus takes the place of festvox-ru"
    corpus=synthetic
fi
data=demo/$corpus run=$exp/$corpus
say "1. Prepare $corpus"
./prepare.sh --python "$PYTHON" --corpora "$corpus" --data-dir "$data" --download-dir demo/download

# Without a GPU: a process of one thread per core, two at most, which waits without spinning, finds memory quickly and
# keeps the convolution plans of all lengths (docs/cluster.md).
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    processes=1
else
    processes=$(($(nproc) > 1 ? 2 : 1))
    export OMP_WAIT_POLICY=passive ONEDNN_PRIMITIVE_CACHE_CAPACITY=20000
    preload=$("$PYTHON" local/fetch_allocator.py demo/download) || preload=""
fi
# train RECIPE CONFIG EXP_DIR [flags]
train() {
    LD_PRELOAD=${preload:-} "$PYTHON" "$1/train.py" --config "egs/festvox_ru/$2" --exp-dir "$3" \
        --manifest-dir "$data/shar" --bpe-model "$data/lang/bpe.model" \
        --world-size "$processes" --num-threads 1 --time-budget-minutes "$minutes" "${@:4}"
}

[ "$mode" = --quick ] && length="430 batches" || length="$minutes minutes"
say "2. Train for $length (settings: egs/festvox_ru/tiny.yaml)"
train zipformer_crctc tiny.yaml "$run" "${flags[@]+"${flags[@]}"}"

say "3. Average the checkpoints and decode held-out speech"
for method in ctc-greedy-search ctc-prefix-beam-search; do
    "$PYTHON" zipformer_crctc/ctc_decode.py --exp-dir "$run" --decoding-method "$method"
done

[ "$corpus" != festvox-ru ] || "$PYTHON" benchmarks/demo_curve.py --show "$run"

say "4. Transcribe held-out recordings: first what the corpus says, then what the model recognises"
"$PYTHON" local/write_wavs.py "$data/shar/test-heldout" demo/heldout --count 2
"$PYTHON" -m couloir.cli transcribe "$run" demo/heldout/*.wav
echo
echo "The report with plots:     $run/ctc-greedy-search/report.html"
echo "Training curves:           .venv/bin/tensorboard --logdir $run/tensorboard"
[ "$mode" = --all ] || exit 0

say "5. Train a transducer, one with a CTC head, and CTC with an attention decoder (settings: egs/festvox_ru)"
train zipformer_transducer transducer.yaml "$run-transducer"
train zipformer_transducer transducer.yaml "$run-transducer-ctc" --use-ctc True
train zipformer_crctc attention.yaml "$run-attention"

say "6. Decode held-out speech with every method"
"$PYTHON" benchmarks/method_table.py --exp-dir "$run" "$run-transducer" "$run-transducer-ctc" \
    "$run-attention" --name "$corpus" --lm-dir "$exp/lm"
