"""The second-generation Zipformer with its heads, as the table of families has it. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from couloir.config import as_plain
from couloir.data.config import DataConfig
from couloir.families.base import FamilySpec, Overrides
from couloir.features.config import AugmentConfig, FbankConfig, check_masks
from couloir.losses.config import LossConfig, check
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import HEAD_WIDTHS, PER_STACK, PRESETS, ZipformerConfig, check_features
from couloir.optim.config import OptimConfig
from couloir.text.config import TextConfig
from couloir.training.config import TrainerConfig


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
)
