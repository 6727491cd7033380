"""The second-generation Zipformer with its heads, as the table of families has it. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from couloir.config import as_plain
from couloir.data.config import DataConfig
from couloir.families.base import FamilySpec, Overrides
from couloir.features.config import AugmentConfig, FbankConfig, check_masks
from couloir.losses.config import LossConfig, check
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.sizes import heads_config
from couloir.models.zipformer.architecture import preset_name, zipformer_config
from couloir.models.zipformer.config import HEAD_WIDTHS, PER_STACK, PRESETS, ZipformerConfig, check_features
from couloir.optim.config import OptimConfig
from couloir.text.config import TextConfig
from couloir.training.config import TrainerConfig

FACTS = (
    "num_encoder_layers",
    "downsampling_factor",
    "encoder_dim",
    "feedforward_dim",
    "num_heads",
    "cnn_module_kernel",
)


@dataclasses.dataclass(frozen=True)
class ZipformerRunConfig:
    """All of a run's settings. A field of a section is one flag."""

    zipformer: ZipformerConfig = dataclasses.field(default_factory=ZipformerConfig)
    heads: HeadsConfig = dataclasses.field(default_factory=HeadsConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    fbank: FbankConfig = dataclasses.field(default_factory=FbankConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    recipe: str = ""
    family: str = "zipformer"

    def __post_init__(self) -> None:
        check(self.loss, self.augment, self.heads)
        check_features(self.fbank, self.zipformer)
        check_masks(self.augment, self.fbank)


def _preset(name: str) -> Overrides:
    # A list of equal numbers is given as one, so that flags may change the number of stacks.
    sizes = {
        key: value[:1] if key in PER_STACK and len(set(value)) == 1 else value
        for key, value in as_plain(PRESETS[name]).items()
    }
    return {"zipformer": sizes, "heads": HEAD_WIDTHS.get(name, {})}


def _fields(cls: type, but: Collection[str] = ()) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls) if field.name not in but)


def owns(names: Collection[str]) -> bool:
    """Whether tensors of these names are a second-generation Zipformer's; the first one's output is no mean."""
    return "encoder.downsample_output.bias" in names and any(name.startswith("encoder.encoders.0.") for name in names)


def read_sizes(weights: Mapping[str, Any], saved: ZipformerRunConfig | None, origin: str) -> ZipformerRunConfig:
    """What is built for inference: all read off the weights, or what was saved, but for the vocabulary's size."""
    heads = heads_config(weights, origin)
    if saved is not None:
        return dataclasses.replace(saved, heads=dataclasses.replace(saved.heads, vocab_size=heads.vocab_size))
    zipformer = zipformer_config(weights, origin)
    return ZipformerRunConfig(zipformer=zipformer, heads=heads, fbank=FbankConfig(zipformer.feature_dim))


def facts(weights: Mapping[str, Any], saved: ZipformerRunConfig | None, origin: str) -> dict[str, str]:
    """What ``couloir info`` says of a model, as of `FamilySpec`."""
    config = read_sizes(weights, None, origin)
    zipformer, heads = config.zipformer, config.heads
    there = [name for name, has in (("CTC", heads.use_ctc), ("transducer", heads.use_transducer)) if has]
    found = {
        "heads": ", ".join(there),
        "size": preset_name(zipformer) or "none of the presets",
        "vocabulary": f"{heads.vocab_size} symbols",
        "output rate": f"{50 // zipformer.output_downsampling_factor} frames/s",
        "streaming": "yes (chunk-causal)" if zipformer.causal else "no",
    }
    if zipformer.causal:
        found |= _context_facts(zipformer, saved.zipformer if saved else None)
    return found | {name.replace("_", "-"): _comma(getattr(zipformer, name)) for name in FACTS}


def _context_facts(sizes: ZipformerConfig, saved: ZipformerConfig | None) -> dict[str, str]:
    """What a causal model was trained to see, and what it sees here, in 50 Hz frames."""
    chunk, left = (saved or sizes).fixed_context
    context = "full" if chunk < 0 else f"chunks of {chunk} frames (20 ms each), {left} before (-1: all)"
    found = {"context": f"{context}; another with --chunk-size and --left-context-frames"}
    if saved:
        found["trained with chunk-size"] = _comma(saved.chunk_size)
        found["trained with left-context-frames"] = _comma(saved.left_context_frames)
    return found


def _comma(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


ZIPFORMER = FamilySpec(
    name="zipformer",
    about="second-generation Zipformer with `encoder.encoders.*` layers and `encoder.downsample_output.bias`",
    config=ZipformerRunConfig,
    signature=("zipformer", "heads"),
    presets={name: _preset(name) for name in PRESETS},
    weight_bound={
        # Training draws among chunk sizes.
        "zipformer": _fields(ZipformerConfig, but=("chunk_size", "left_context_frames")),
        "heads": _fields(HeadsConfig),
        "fbank": _fields(FbankConfig),
        "text": ("remove_diacritics",),
    },
    units=("phone", "word", "char"),
    implementation="couloir.families.zipformer:FAMILY",
    owns=owns,
    facts=facts,
)
