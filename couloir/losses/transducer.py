"""The pruned transducer loss of a model (Kuang et al. 2022, arXiv:2206.13236), with icefall's warm-up."""
# Shapes: B batch, D model dimension, R symbols of the band, S output frames.

from __future__ import annotations

import torch
from torch import Tensor

from couloir.losses.config import LossConfig
from couloir.losses.ctc import pad_targets
from couloir.losses.rnnt_backend import rnnt_backend
from couloir.models.heads.config import BLANK_ID
from couloir.models.heads.model import SpeechModel


class TransducerLoss:
    """Both losses of a transducer: the simple one, which finds the pruning bounds, and the pruned one within them.

    Args:
        config: scales, range and backend. Raises `UserError` for a backend that is not installed.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.backend = rnnt_backend(config.rnnt_backend)
        self.own = config.rnnt_backend == "couloir"

    def scales(self, batch_idx_train: float) -> tuple[float, float]:
        """Weights of the simple and the pruned loss.

        They go linearly from 1 and 0.1 to ``simple_loss_scale`` and 1 over the first ``warm_step`` batches.
        """
        final, warm_step = self.config.simple_loss_scale, self.config.warm_step
        if batch_idx_train >= warm_step:
            return final, 1.0
        progress = batch_idx_train / warm_step
        return 1.0 - progress * (1.0 - final), 0.1 + 0.9 * progress

    def __call__(
        self, model: SpeechModel, encoded: Tensor, lens: Tensor, tokens: list[list[int]]
    ) -> tuple[Tensor, Tensor]:
        """Both losses, summed over the batch.

        Args:
            model: its predictor, joiner and simple projections are used. encoded: (B, S, D). lens: (B,).
            tokens: B token lists, each of which has a path.
        """
        symbols, symbol_lens = (part.to(encoded.device) for part in pad_targets(tokens))
        boundary = torch.zeros(len(tokens), 4, dtype=torch.int64, device=encoded.device)
        boundary[:, 2], boundary[:, 3] = symbol_lens, lens
        predicted = model.decoder(torch.nn.functional.pad(symbols, (1, 0), value=BLANK_ID))
        simple, ranges = self._simple(model, encoded, predicted, symbols, boundary)
        am, lm = self.backend.do_rnnt_pruning(
            model.joiner.encoder_proj(encoded), model.joiner.decoder_proj(predicted), ranges
        )
        logits = model.joiner(am, lm, project_input=False)
        with torch.autocast(encoded.device.type, enabled=False):
            pruned = self.backend.rnnt_loss_pruned(
                logits if self.own else logits.float(), symbols, ranges, BLANK_ID, boundary, reduction="sum"
            )
        return simple, pruned

    def _simple(
        self, model: SpeechModel, encoded: Tensor, predicted: Tensor, symbols: Tensor, boundary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The simple loss, and the rows (B, S, R) of the lattice that its occupations tell to keep."""
        am, lm = model.simple_am_proj(encoded), model.simple_lm_proj(predicted)
        with torch.autocast(encoded.device.type, enabled=False):
            simple, (px_grad, py_grad) = self.backend.rnnt_loss_smoothed(
                lm.float(), am.float(), symbols, BLANK_ID,
                lm_only_scale=self.config.lm_scale, am_only_scale=self.config.am_scale,
                boundary=boundary, reduction="sum", return_grad=True,
            )  # fmt: skip
        # Every item has a path in the band (see above); asking for that would make the host wait for the device.
        more = {"widen": False} if self.own else {}
        return simple, self.backend.get_rnnt_prune_ranges(px_grad, py_grad, boundary, self.config.prune_range, **more)
