"""The first-generation streaming Zipformer transducer. Its state dict is icefall's.

Shapes: B batch or streams, T feature frames, F feature bins, S output frames, D model dimension.
"""

from __future__ import annotations

from torch import Tensor

from couloir.errors import must_be
from couloir.models.geometry import FrameGeometry
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.model import Padding, SpeechModel
from couloir.models.zipformer1.config import Zipformer1Config
from couloir.models.zipformer1.encoder import Zipformer
from couloir.models.zipformer1.streaming import join_layers, split_layers, unfilled_masks


class Zipformer1Model(SpeechModel):
    """Encoder with transducer heads.

    Args:
        zipformer: encoder sizes and contexts. heads: the transducer's sizes.

    Raises:
        UserError: heads other than the transducer's are asked for.
    """

    def __init__(self, zipformer: Zipformer1Config, heads: HeadsConfig) -> None:
        super().__init__()
        if not heads.use_transducer or heads.use_ctc or heads.use_attention_decoder:
            raise must_be("the heads of a first-generation Zipformer", "those of the transducer alone", "others")
        self.zipformer_config = zipformer
        self.encoder = Zipformer(zipformer)
        # Neither balancers of the predictor nor small simple projections: those came with the second generation.
        self.add_heads(heads, zipformer.output_dim, balanced=False, simple_scale=None)

    def forward_encoder(
        self, feats: Tensor, feat_lens: Tensor, padding: Padding | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `SpeechModel.forward_encoder`; lengths are each at least 9, and attention is masked by chunks."""
        exact = padding == "exact" if padding is not None else not self.training
        encoded: tuple[Tensor, Tensor] = self.encoder(feats, feat_lens, exact)
        return encoded

    def geometry(self) -> FrameGeometry:
        """As of `SpeechModel`."""
        return self.zipformer_config.geometry

    def context(self) -> tuple[int, int] | None:
        """As of `SpeechModel`."""
        return self.zipformer_config.decode_chunk_size, self.zipformer_config.left_context

    def streaming_forward(
        self, feats: Tensor, states: list[Tensor], hide_unfilled: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode the next chunk of every stream; eval mode only.

        Args:
            feats: (B, T, F). A chunk of c feature frames has T = c + 7 and goes on by c; the last may be shorter.
            states: from `streaming.initial_states` or the last call. hide_unfilled: see `streaming`.

        Returns:
            (B, S, D) and the new states.
        """
        layers = split_layers(states)
        frames = self.zipformer_config.geometry.embedded(feats.shape[1])
        factors = self.zipformer_config.zipformer_downsampling_factors
        masks = list(unfilled_masks(layers, frames, factors)) if hide_unfilled else None
        encoded, layers = self.encoder.streaming_forward(feats, layers, masks)
        return encoded, join_layers(layers)


def build_model(zipformer: Zipformer1Config, heads: HeadsConfig) -> Zipformer1Model:
    """A freshly initialised model."""
    return Zipformer1Model(zipformer, heads)


def num_subsampled_frames(feat_lens: Tensor, config: Zipformer1Config) -> Tensor:
    """Encoder output lengths (B,) of ``feat_lens`` (B,) feature frames."""
    lens: Tensor = config.geometry.output_frames(feat_lens)
    return lens
