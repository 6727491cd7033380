"""What joins the second-generation Zipformer and its heads to the programs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from couloir.export.parts import ExportPart, ScriptedPart
from couloir.families import zipformer_export
from couloir.families.base import Scheduler, Trained
from couloir.families.zipformer_spec import ZIPFORMER, ZipformerRunConfig, read_sizes
from couloir.features.front_end import FrontEnd, make_front_end
from couloir.inference.torch_backend import TorchBackend
from couloir.inference.vocabulary import Vocabulary
from couloir.losses.ctc import reason_too_short
from couloir.losses.objective import AsrObjective
from couloir.models.heads.attention_decoder import SOS_EOS
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.architecture import adapted, preset_name, same_sizes
from couloir.models.zipformer.config import PRESETS, ZipformerConfig
from couloir.models.zipformer.model import AsrModel, build_model, num_subsampled_frames
from couloir.optim.config import OptimConfig
from couloir.optim.default import scaled_adam_under_eden
from couloir.text.tokenizer import check_sentence_mark

ENCODER = ("encoder", "encoder_embed")
PREDICTOR = ("decoder", "joiner", "simple_lm_proj")
WHICH_HEADS = ("use_transducer", "use_ctc", "use_attention_decoder")


class ZipformerFamily:
    """As `couloir.families.base.ModelFamily`."""

    spec = ZIPFORMER
    per_token = re.compile(
        r"(ctc_output\.1|decoder\.embedding|joiner\.output_linear|simple_am_proj|simple_lm_proj"
        r"|attention_decoder\.decoder\.(embed|output_layer))\.(weight|bias)"
    )

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict is icefall's."""
        return dict(weights)

    def sizes(
        self, weights: Mapping[str, Tensor], said: ZipformerRunConfig, typed: Collection[str], origin: str
    ) -> ZipformerRunConfig:
        """As of the protocol."""
        zipformer, heads = adapted(said.zipformer, said.heads, weights, typed, origin)
        features = replace(said.fbank, feature_dim=zipformer.feature_dim)
        return replace(said, zipformer=zipformer, heads=heads, fbank=features)

    def read_sizes(
        self, weights: Mapping[str, Tensor], saved: ZipformerRunConfig | None, origin: str
    ) -> ZipformerRunConfig:
        """As of the protocol."""
        return read_sizes(weights, saved, origin)

    def sizes_to_start_from(
        self,
        weights: Mapping[str, Tensor],
        config: ZipformerRunConfig,
        former: ZipformerRunConfig | None,
        typed: Collection[str],
        modules: Collection[str],
        origin: str,
    ) -> ZipformerRunConfig:
        """As of the protocol; which heads the new model has is said by ``config``."""
        roots = {module.split(".")[0] for module in modules}
        takes_encoder, takes_predictor = (not roots or not roots.isdisjoint(part) for part in (ENCODER, PREDICTOR))
        if not (takes_encoder or takes_predictor):
            return config
        said = config if former is None else self.sized_as(config, former, typed)
        bound = {name for name in typed if takes_encoder or name not in ZipformerConfig.__dataclass_fields__}
        bound -= set() if takes_predictor else set(HeadsConfig.__dataclass_fields__)
        zipformer, heads = adapted(said.zipformer, said.heads, weights, bound, origin)
        if "encoder_unmasked_dim" in typed or former is not None:
            unmasked = said.zipformer.encoder_unmasked_dim
            # One number that was spread over another number of stacks.
            unmasked = unmasked[:1] if len(set(unmasked)) == 1 else unmasked
            zipformer = replace(zipformer, encoder_unmasked_dim=unmasked)
        elif name := preset_name(zipformer):
            zipformer = replace(zipformer, encoder_unmasked_dim=PRESETS[name].encoder_unmasked_dim)
        return replace(
            config,
            zipformer=zipformer if takes_encoder else config.zipformer,
            heads=heads if takes_predictor else config.heads,
        )

    def sized_as(
        self, config: ZipformerRunConfig, other: ZipformerRunConfig, typed: Collection[str]
    ) -> ZipformerRunConfig:
        """As of the protocol: the other's encoder and widths of heads."""

        def own(section: ZipformerConfig | HeadsConfig) -> dict[str, Any]:
            names = {field.name for field in fields(section)} & {*typed, *WHICH_HEADS}
            return {name: getattr(section, name) for name in names}

        return replace(
            config,
            zipformer=replace(other.zipformer, **own(config.zipformer)),
            heads=replace(other.heads, **own(config.heads)),
        )

    def vocab_size(self, config: ZipformerRunConfig) -> int:
        """As of the protocol."""
        return config.heads.vocab_size

    def with_vocab_size(self, config: ZipformerRunConfig, size: int) -> ZipformerRunConfig:
        """As of the protocol."""
        return replace(config, heads=replace(config.heads, vocab_size=size))

    def kinds(self, config: ZipformerRunConfig) -> tuple[str, ...]:
        """As of the protocol."""
        has = {"ctc": config.heads.use_ctc, "transducer": config.heads.use_transducer}
        return tuple(kind for kind, there in has.items() if there)

    def is_preset(self, config: ZipformerRunConfig, name: str) -> bool:
        """As of the protocol."""
        return same_sizes(config.zipformer, PRESETS[name])

    def build(self, config: ZipformerRunConfig) -> AsrModel:
        """As of the protocol."""
        return build_model(config.zipformer, config.heads)

    def check_tokenizer(self, config: ZipformerRunConfig, pieces: list[str]) -> None:
        """As of the protocol: an attention decoder begins and ends with a mark of sentences."""
        if config.heads.use_attention_decoder:
            check_sentence_mark(pieces, SOS_EOS, "an attention decoder")

    def front_end(self, config: ZipformerRunConfig) -> FrontEnd:
        """As of the protocol."""
        return make_front_end(config.fbank)

    def objective(self, model: nn.Module, front_end: FrontEnd, config: ZipformerRunConfig) -> AsrObjective:
        """As of the protocol."""
        assert isinstance(model, AsrModel)
        return AsrObjective(model, front_end, config.augment, config.loss)

    def optimizer(self, model: nn.Module, config: OptimConfig) -> tuple[torch.optim.Optimizer, Scheduler]:
        """As of the protocol."""
        return scaled_adam_under_eden(model, config)

    def output_frames(self, config: ZipformerRunConfig, num_samples: int) -> int:
        """As of the protocol."""
        feature_frames = torch.tensor(config.fbank.num_frames(num_samples))
        return int(num_subsampled_frames(feature_frames, config.zipformer))

    def reason_to_skip(self, config: ZipformerRunConfig, tokens: list[int], num_samples: int) -> str | None:
        """As of the protocol, by icefall's rule whatever the heads are."""
        return reason_too_short(tokens, self.output_frames(config, num_samples))

    def with_context(
        self, config: ZipformerRunConfig, chunk_size: int | None, left_context_frames: int | None
    ) -> ZipformerRunConfig:
        """As of the protocol."""
        return replace(config, zipformer=config.zipformer.with_context(chunk_size, left_context_frames))

    def backend(self, trained: Trained, vocabulary: Vocabulary, kind: str | None) -> TorchBackend:
        """As of the protocol."""
        assert isinstance(trained.model, AsrModel)
        return TorchBackend(
            trained.model,
            trained.front_end,
            vocabulary,
            trained.device,
            trained.origin,
            kind,
            trained.files,
            trained.average,
        )

    def export_parts(self, model: nn.Module, kind: str = "", streaming: bool = False) -> list[ExportPart]:
        """As of the protocol."""
        assert isinstance(model, AsrModel)
        return zipformer_export.export_parts(model, kind, streaming)

    def scripted_part(self, model: nn.Module) -> ScriptedPart:
        """As of the protocol."""
        assert isinstance(model, AsrModel)
        return zipformer_export.scripted_part(model)

    def check_full_context(self, config: ZipformerRunConfig, given: Collection[str], remedy: str) -> None:
        """As of the protocol."""
        zipformer_export.check_full_context(config.zipformer, given, remedy)


FAMILY = ZipformerFamily()
