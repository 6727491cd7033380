"""Configuration of a Paraformer's training objective. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from couloir.config import flag_name, option
from couloir.errors import must_be


@dataclass(frozen=True)
class ParaformerLossConfig:
    """Training objective of a Paraformer.

    Cross entropy of the tokens, plus the mean absolute error of their number, and CTC where the model has such a head.
    Defaults are those of the general models; FunASR's AISHELL recipe has 0.3, 0.4 and False.
    """

    ctc_weight: float = option(0.0, "Share of CTC, against that of the cross entropy.")
    label_smoothing: float = option(0.1, "Probability that the cross entropy's target spreads over the other tokens.")
    predictor_weight: float = option(1.0, "Weight of the error in the number of tokens.")
    sampling_ratio: float = option(0.75, "Tokens shown to the decoder in training, per wrong token of a first pass.")
    length_normalized_loss: bool = option(
        True, "Cross entropy and error are means over tokens; otherwise over utterances."
    )
    mwer_weight: float = option(
        0.0, "Weight of the expected errors (MWER) beside the others, for a model that is trained already; 0 for none."
    )
    mwer_paths: int = option(4, "Paths that errors are expected over, the best one included.", unit="paths", rare=True)
    mwer_mask_prob: float = option(0.1, "Probability of each token of a path to be the second best one.", rare=True)

    def __post_init__(self) -> None:
        for name in ("predictor_weight", "sampling_ratio", "mwer_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise must_be(flag_name(name), "0 or more", value)
        if not 0.0 <= self.ctc_weight <= 1.0:
            raise must_be("--ctc-weight", "from 0 to 1", self.ctc_weight)
        if self.mwer_paths < 2:
            raise must_be("--mwer-paths", "at least 2", self.mwer_paths)
        if not 0.0 < self.mwer_mask_prob <= 1.0:
            raise must_be("--mwer-mask-prob", "above 0 and at most 1", self.mwer_mask_prob)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise must_be("--label-smoothing", "from 0 to below 1", self.label_smoothing)
