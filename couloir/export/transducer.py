"""The parts of a stateless transducer's search, whatever its encoder: icefall's decoder and joiner files.

Shapes: R rows, C tokens of context, T feature frames, F feature bins, J joiner width, S output frames,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from couloir.export.parts import RowsPart
from couloir.models.heads.transducer import Decoder, Joiner

SEARCH_ROWS = 64
"""Frames of a recording at most on which the parts are run for their check."""


class Predictor(nn.Module):
    """Token histories (R, C) -> the predictor's part of a joiner's input (R, J).

    Args:
        decoder, joiner: of the model, prepared.
    """

    def __init__(self, decoder: Decoder, joiner: Joiner) -> None:
        super().__init__()
        self.decoder, self.projection = decoder, joiner.decoder_proj
        self.eval()

    def forward(self, y: Tensor) -> Tensor:
        """``y``: (R, C) int64; a negative id is no token."""
        return self.projection(self.decoder(y, need_pad=False).squeeze(1))


class ProjectedJoiner(nn.Module):
    """Projected encoder and predictor outputs (R, J) -> logits (R, V).

    Args:
        joiner: of the model, prepared.
    """

    def __init__(self, joiner: Joiner) -> None:
        super().__init__()
        self.joiner = joiner
        self.eval()

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """(R, J), (R, J) -> (R, V)."""
        return self.joiner(encoder_out, decoder_out, project_input=False)


def search_parts(decoder: Decoder, joiner: Joiner, encode: Callable[[Tensor], Tensor]) -> list[RowsPart]:
    """What the search calls: "decoder" and "joiner".

    Args:
        decoder, joiner: of the model, prepared.
        encode: features (T, F) -> projected encoder output (S, J), on which the parts are checked.
    """
    predictor, projected = Predictor(decoder, joiner), ProjectedJoiner(joiner)

    def histories(rows: Tensor) -> Tensor:
        """Histories (R, C) of tokens, some of which begin an utterance."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(-1, decoder.vocab_size, (len(rows), decoder.context_size), generator=generator)

    @torch.no_grad()
    def of_decoder(item: Tensor) -> tuple[Tensor, ...]:
        return (histories(encode(item)[:SEARCH_ROWS]),)

    @torch.no_grad()
    def of_joiner(item: Tensor) -> tuple[Tensor, ...]:
        rows = encode(item)[:SEARCH_ROWS]
        return rows, predictor(histories(rows))

    sizes = {"context_size": decoder.context_size, "vocab_size": decoder.vocab_size}
    return [
        RowsPart("decoder", predictor, ("y",), "decoder_out", of_decoder, metadata=sizes),
        RowsPart(
            "joiner",
            projected,
            ("encoder_out", "decoder_out"),
            "logit",
            of_joiner,
            scores=True,
            metadata={"joiner_dim": joiner.output_linear.in_features},
        ),
    ]
