"""Flags of icefall's and ZIPA's commands that are accepted and have no effect here, so that the commands run unchanged.

They are no part of a configuration: what is given is looked at, named where it asks for something, and dropped. Run
directories of earlier releases hold them in the sections that the table names.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from couloir.config import RareFlag, convert_named, flag_name
from couloir.errors import must_be

Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ForeignFlag:
    """A flag without effect.

    Attributes:
        section: of a configuration file, where it may stand too. whose: the system that has it.
        neutral: the value that asks for nothing; a type, where no value does. why: why others have no effect.
        remedy: what to do instead, where another value is refused and not only named.
    """

    section: str
    whose: str
    neutral: Any
    why: str
    remedy: str = ""

    @property
    def kind(self) -> type:
        """The type of its value."""
        return self.neutral if isinstance(self.neutral, type) else type(self.neutral)


_BY_FOLDER = "the folders of --manifest-dir say what is trained on"
_ON_THE_FLY = "features are always computed from the audio, as it is read"
_NO_PSEUDO_LABELS = "no pseudo-labelled stream is given; training is on labelled speech alone"
_JOINED = "belongs to --concatenate-cuts True, which is not offered here"
_LEAVE_OUT = "leave the flag out"

FOREIGN_FLAGS: dict[str, ForeignFlag] = {
    "full_libri": ForeignFlag("data", "icefall", True, _BY_FOLDER),
    "mini_libri": ForeignFlag("data", "icefall", False, _BY_FOLDER),
    "subset": ForeignFlag("data", "ZIPA", "", _BY_FOLDER),
    "train_manifest": ForeignFlag("data", "ZIPA", "", _BY_FOLDER, "name its folder by --manifest-dir"),
    "on_the_fly_feats": ForeignFlag("data", "icefall", True, _ON_THE_FLY),
    "input_strategy": ForeignFlag("data", "icefall", "AudioSamples", _ON_THE_FLY),
    "return_cuts": ForeignFlag("data", "icefall", bool, "batches always say which utterances they hold"),
    "concatenate_cuts": ForeignFlag("data", "icefall", False, "utterances are never joined", _LEAVE_OUT),
    "duration_factor": ForeignFlag("data", "icefall", float, _JOINED),
    "gap": ForeignFlag("data", "icefall", float, _JOINED),
    "blank_id": ForeignFlag("heads", "icefall", 0, "the blank is token 0 in every model", "put it first in tokens.txt"),
    "cr_loss_masked_scale": ForeignFlag(
        "loss", "icefall", 1.0, "masked frames weigh as others do", "the only value ever trained with"
    ),
    "use_unsup_cr_ctc": ForeignFlag("loss", "ZIPA", False, _NO_PSEUDO_LABELS),
    "unsup_cr_ctc_loss_scale": ForeignFlag("loss", "ZIPA", 0.5, _NO_PSEUDO_LABELS),
    "use_mask_threshold": ForeignFlag("loss", "ZIPA", 0.8, "neither has it one in ZIPA's own program"),
}


def add_foreign_flags(parser: argparse.ArgumentParser) -> None:
    """Let a parser take them; ``--help-all`` has their table."""
    group = parser.add_argument_group("Of other systems", "Accepted, without effect.")
    for name, flag in FOREIGN_FLAGS.items():
        group.add_argument(
            flag_name(name), dest=name, default=argparse.SUPPRESS, metavar="X", action=RareFlag,
            help=f"{flag.whose}'s: {flag.why}",
        )  # fmt: skip


def foreign_of(namespace: argparse.Namespace) -> Sections:
    """Those that were typed, by section."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in vars(namespace).items():
        if name in FOREIGN_FLAGS:
            found.setdefault(FOREIGN_FLAGS[name].section, {})[name] = value
    return found


def is_foreign(section: str, name: str) -> bool:
    """Whether a section's key is one of them."""
    return name in FOREIGN_FLAGS and FOREIGN_FLAGS[name].section == section


def without_effect(layers: Iterable[Sections]) -> list[str]:
    """One line for each of them that asks for something, the last value counting.

    Raises:
        UserError: a value of the wrong type, or one that is refused.
    """
    given: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            keys = {key.replace("-", "_"): value for key, value in values.items()}
            given |= {name: value for name, value in keys.items() if is_foreign(section, name)}
    return [line for name in FOREIGN_FLAGS if name in given for line in _judged(name, given[name])]


def _judged(name: str, value: Any) -> list[str]:
    flag, shown = FOREIGN_FLAGS[name], flag_name(name)
    value = convert_named(name, flag.kind, value)
    if flag.neutral in (flag.kind, value):
        return []
    if flag.remedy:
        raise must_be(shown, str(flag.neutral) or "empty", value, flag.remedy)
    return [f"`{shown} {value}` has no effect: {flag.why}"]
