"""The numerics contract: a change that should not change numbers leaves the losses of a short run as they are.

The run is CR-CTC on the real utterances of tests/data: features, augmentation, model with all its randomness, loss,
optimiser and schedule. A change that should change numbers makes the file anew (COULOIR_UPDATE_GOLDEN=1) and says why.
"""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from programs import run_program
from real_speech import TINY, losses, prepare

GOLDEN = Path(__file__).with_name("golden_losses.json")
FLAGS = (
    f"{TINY} --manifest-dir data/shar --bpe-model data/lang/bpe.model --max-duration 8 --min-utterance-duration 0.3 "
    "--log-interval 1 --average-period 2 --num-workers 0 --tensorboard False --warmup-batches 4 --exp-dir exp "
    "--num-epochs 9 --max-steps 10 --seed 7"
)


def test_losses_are_the_golden_ones(tmp_path):
    prepare(tmp_path)
    run_program(tmp_path, "zipformer_crctc/train.py", FLAGS)
    ours = losses(tmp_path / "exp")
    if os.environ.get("COULOIR_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(ours, indent=1) + "\n")
    golden = {int(step): loss for step, loss in json.loads(GOLDEN.read_text()).items()}
    # Processors round matrix products differently in the last bits, and training doubles such differences within a
    # few steps: on one machine the losses are equal, on another they agree to about 1e-4 after ten.
    assert ours == pytest.approx(golden, rel=1e-3)
