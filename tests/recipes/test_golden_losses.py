"""The numerics contract: a change that should not change numbers leaves the losses of a short run as they are.

The runs are each recipe's on the real utterances of tests/data: features, augmentation, model with all its randomness,
loss, optimiser and schedule. A change that should change numbers makes the file again (COULOIR_UPDATE_GOLDEN=1) and
says why.
"""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from programs import run_program
from real_speech import TINY, losses, prepare

FLAGS = (
    f"{TINY} --manifest-dir data/shar --bpe-model data/lang/bpe.model --max-duration 8 --min-utterance-duration 0.3 "
    "--log-interval 1 --average-period 2 --num-workers 0 --tensorboard False --warmup-batches 4 --exp-dir exp "
    "--num-epochs 9 --max-steps 10 --seed 7"
)
# Every head at once: the transducer's two losses, CR-CTC beside them, and the attention decoder.
ALL_HEADS = (
    "--decoder-dim 16 --joiner-dim 16 --use-ctc True --use-cr-ctc True --enable-spec-aug False --ctc-loss-scale 0.1 "
    "--cr-loss-scale 0.02 --use-attention-decoder True --attention-decoder-dim 16 --attention-decoder-num-layers 1 "
    "--attention-decoder-attention-dim 16 --attention-decoder-num-heads 2 --attention-decoder-feedforward-dim 16 "
    "--warm-step 8"
)
RUNS = {
    "golden_losses": ("zipformer_crctc", ""),
    "golden_losses_transducer": ("zipformer_transducer", "--decoder-dim 16 --joiner-dim 16 --warm-step 8"),
    "golden_losses_all_heads": ("zipformer_transducer", ALL_HEADS),
}


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_the_golden_ones(tmp_path, name):
    prepare(tmp_path)
    recipe, flags = RUNS[name]
    run_program(tmp_path, f"{recipe}/train.py", f"{FLAGS} {flags}")
    ours = losses(tmp_path / "exp")
    file = Path(__file__).with_name(f"{name}.json")
    if os.environ.get("COULOIR_UPDATE_GOLDEN"):
        file.write_text(json.dumps(ours, indent=1) + "\n")
    golden = {int(step): loss for step, loss in json.loads(file.read_text()).items()}
    # Processors round matrix products differently in the last bits, and training doubles such differences within a
    # few steps: on one machine the losses are equal, on another they agree to about 1e-4 after ten.
    assert ours == pytest.approx(golden, rel=1e-3)
