"""ZIPA's Python interface to a transducer, as its README shows it.

from zipa_transducer_inference import initialize_model
model = initialize_model(model_path, bpe_model_path)
model.inference([torch.zeros(32000), torch.zeros(48000)])
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import zipa_ctc_inference


def initialize_model(
    model_path: str | Path, bpe_model_path: str | Path, device: str = "auto", max_sym_per_frame: int = 1
) -> zipa_ctc_inference.PhoneModel:
    """As `zipa_ctc_inference.initialize_model`, for a checkpoint with a transducer head.

    ZIPA's program of this name emits one symbol per frame, as here; its client for ONNX files up to three.
    """
    return zipa_ctc_inference.initialize_model(model_path, bpe_model_path, device, "transducer", max_sym_per_frame)
