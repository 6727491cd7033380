"""A Zipformer's parts for export, with the names and metadata that icefall's files have, which sherpa-onnx runs.

Shapes: B items or streams, T feature frames, F feature bins, S output frames, D model dimension, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection

import torch
from torch import Tensor, nn

from couloir.config import flag_name
from couloir.errors import must_be
from couloir.export import modules
from couloir.export.parts import ExportPart, OfflinePart, ScriptedPart, StreamingPart
from couloir.export.transducer import search_parts
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import AsrModel
from couloir.models.zipformer.streaming import ZipformerStreaming

AUTHOR: dict[str, str | int] = {"version": 1, "model_author": "k2-fsa"}
# sherpa-onnx makes the first embed_states of a stream itself, and with this many channels.
SHERPA_CHANNELS = 128
# sherpa-onnx's time stamps assume 25 output frames per second.
SHERPA_FACTOR = 2
SCRIPTED = ("decoder", "joiner", "ctc_output")
"""What a scripted file has beside the encoder, where the model has it."""


def prepared(model: AsrModel, full_context: bool = True) -> AsrModel:
    """A copy on the CPU, in eval mode, that needs no gradients; with ``full_context`` a causal one is not chunked."""
    ready = modules.prepared(model)
    if full_context and ready.zipformer_config.causal:
        config = dataclasses.replace(ready.zipformer_config, chunk_size=(-1,), left_context_frames=(-1,))
        ready.zipformer_config = ready.encoder.config = config
    return ready


def head_of(model: AsrModel, kind: str) -> nn.Module:
    """What stands behind the encoder in a ``kind`` ("ctc" or "transducer") file. Raises `UserError`."""
    heads = model.heads_config
    if not (heads.use_ctc if kind == "ctc" else heads.use_transducer):
        raise must_be(f"--use-{kind}", f"True to export a {kind} model", "False")
    return model.ctc_output if kind == "ctc" else model.joiner.encoder_proj


class OfflineEncoder(nn.Module):
    """(B, T, F) features -> (B, S, D) encoder output, log-probabilities, or the encoder's part of a joiner's input.

    Batched items get what they would get alone.

    Args:
        model: prepared. head: what stands behind the encoder.
    """

    def __init__(self, model: AsrModel, head: nn.Module) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.eval()

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """``x_lens`` (B,) int64. Returns the outputs and their lengths (B,)."""
        encoded, lens = self.model.forward_encoder(x, x_lens, padding="exact")
        return self.head(encoded), lens

    def reference(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """The same of one item, as icefall computes it."""
        encoded, lens = self.model.forward_encoder(x, x_lens, padding="reference")
        return self.head(encoded), lens


def export_parts(model: AsrModel, kind: str = "", streaming: bool = False) -> list[ExportPart]:
    """The files of a model: its encoder, and for a transducer decoder and joiner.

    Args:
        model: to export. kind: "ctc" or "transducer"; "" prefers the latter. streaming: in chunks of the size that its
            configuration has; otherwise of whole recordings, with full context.

    Raises:
        UserError: it has no such head, or no one chunk size and left context.
    """
    kind = kind or ("transducer" if model.heads_config.use_transducer else "ctc")
    ready = prepared(model, full_context=not streaming)
    encoder = _streaming_part(ready, kind) if streaming else _offline_part(ready, kind)
    if kind == "ctc":
        return [encoder]

    def encode(item: Tensor) -> Tensor:
        encoded, _ = ready.forward_encoder(item[None], torch.tensor([len(item)]), padding="reference")
        return ready.joiner.encoder_proj(encoded[0])

    return [encoder, *search_parts(ready.decoder, ready.joiner, encode)]


def _offline_part(model: AsrModel, kind: str) -> OfflinePart:
    encoder, config, ctc = OfflineEncoder(model, head_of(model, kind)), model.zipformer_config, kind == "ctc"
    return OfflinePart(
        name="model" if ctc else "encoder",
        module=encoder,
        reference=encoder.reference,
        feature_dim=config.feature_dim,
        geometry=config.geometry,
        output="log_probs" if ctc else "encoder_out",
        output_lens="log_probs_len" if ctc else "encoder_out_lens",
        scores=ctc,
        metadata={
            "model_type": "zipformer2_ctc" if ctc else "zipformer2",
            **AUTHOR,
            "comment": "non-streaming zipformer2 CTC" if ctc else "non-streaming zipformer2",
        },
        warnings=sherpa_warnings(config, streaming=False),
    )


def _streaming_part(model: AsrModel, kind: str) -> StreamingPart:
    ctc = kind == "ctc"
    return StreamingPart(
        name="ctc" if ctc else "encoder",
        streaming=ZipformerStreaming(model),
        head=head_of(model, kind),
        output="log_probs" if ctc else "encoder_out",
        scores=ctc,
        metadata={
            "model_type": "zipformer2",
            **AUTHOR,
            "comment": "streaming ctc zipformer2" if ctc else "streaming zipformer2",
        },
        warnings=sherpa_warnings(model.zipformer_config, streaming=True),
    )


def scripted_part(model: AsrModel) -> ScriptedPart:
    """A whole model as one TorchScript file: a causal one in chunks.

    Raises:
        UserError: a causal model has no one chunk size and left context.
    """
    encoder: OfflinePart | StreamingPart
    if model.zipformer_config.causal:
        ready = prepared(model, full_context=False)
        encoder = StreamingPart("encoder", ZipformerStreaming(ready), nn.Identity())
    else:
        ready = prepared(model)
        bare, config = OfflineEncoder(ready, nn.Identity()), ready.zipformer_config
        encoder = OfflinePart("encoder", bare, bare.reference, config.feature_dim, config.geometry)
    return ScriptedPart(encoder, {name: getattr(ready, name) for name in SCRIPTED if hasattr(ready, name)})


def sherpa_warnings(config: ZipformerConfig, streaming: bool) -> tuple[str, ...]:
    """What sherpa-onnx cannot do with a model. ONNX Runtime and couloir run the files all the same."""
    found = []
    if config.output_downsampling_factor != SHERPA_FACTOR:
        found.append(
            "sherpa-onnx takes an output frame for 40 ms, and this model's is 20 ms: its texts are right and its time "
            "stamps twice too late; couloir reads the rate off the file"
        )
    channels = config.frontend_channels[2]
    if streaming and channels != SHERPA_CHANNELS:
        found.append(
            f"sherpa-onnx cannot stream this model: it makes the first `embed_states` with {SHERPA_CHANNELS} channels, "
            f"and `--frontend-channels` ends in {channels} (as the preset tiny has it)"
        )
    return tuple(found)


def check_full_context(config: ZipformerConfig, given: Collection[str], remedy: str) -> None:
    """Refuse one context that is asked for where files take whole recordings: these have full context.

    Several chunk sizes, among the flags of a training, ask for nothing.

    Args:
        config: of the encoder, with the flags. given: names of the fields that were typed. remedy: what to do.

    Raises:
        UserError: a chunk size or left context of one number other than -1.
    """
    if not config.causal:
        return
    for name in ("chunk_size", "left_context_frames"):
        asked = getattr(config, name) if name in given else (-1,)
        if len(asked) == 1 and asked != (-1,):
            expected = "-1 for a file that takes whole recordings, which has full context"
            raise must_be(flag_name(name), expected, asked[0], remedy)
    chunk, _ = config.fixed_context
    if chunk > 0:
        said = "the model knows chunks of %d frames alone, the file has full context: other texts may come out of it"
        logging.warning(said, chunk)
