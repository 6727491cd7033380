"""ZIPA's Python interface to a CTC model, as its README shows it.

    from zipa_ctc_inference import initialize_model
    model = initialize_model(model_path, bpe_model_path)
    model.inference([torch.zeros(32000), torch.zeros(48000)])

Put this folder on PYTHONPATH. What it returns is what `couloir.Recognizer` finds, which has more to tell.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from couloir.inference.recognizer import Recognizer


class PhoneModel:
    """A model that turns a list of audio arrays into a list of phone sequences."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer

    def inference(self, audio: Sequence[Any]) -> list[list[str]]:
        """Transcribe 16 kHz audio.

        Args:
            audio: tensors or arrays (N,) of any lengths, in [-1, 1].

        Returns:
            The text of each, split at white space.
        """
        waves = [np.asarray(wave.detach().cpu() if hasattr(wave, "detach") else wave) for wave in audio]
        return [transcript.text.split() for transcript in self.recognizer.transcribe(waves)]


def initialize_model(
    model_path: str | Path,
    bpe_model_path: str | Path,
    device: str = "auto",
    model_type: str = "ctc",
    max_sym_per_frame: int = 1,
) -> PhoneModel:
    """Open a checkpoint; its size is read off the weights.

    Args:
        model_path: ``.pth`` or ``.pt`` file, or folder. bpe_model_path: sentencepiece model or tokens.txt.
        device: "auto", "cpu" or "cuda". model_type: "ctc" or "transducer".
        max_sym_per_frame: of a transducer; see `couloir.Recognizer`.

    Raises `couloir.errors.UserError` when they cannot be read or do not fit each other.
    """
    recognizer = Recognizer.from_pretrained(
        model_path,
        tokens=bpe_model_path,
        device=str(device),
        model_type=model_type,
        max_sym_per_frame=max_sym_per_frame,
    )
    return PhoneModel(recognizer)
