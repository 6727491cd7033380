"""Exported files get their names when all that belong together were written, run and found to agree with PyTorch."""
# Shapes: D model dimension.

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from couloir.errors import UserError
from couloir.files import writing_to
from couloir.locks import locked

Pair = tuple[Tensor, Tensor]
"""What PyTorch gives and what a file gives, (..., D) each."""

TESTED_TORCH = ("2.13",)
_SUFFIX = re.compile(r"(\.fp16|\.int8)?\.onnx$")
DATA_SUFFIX = ".data"
"""What the name of a file ends in that holds the weights of another."""
LOCK, _STAGE = ".export.lock", ".couloir-export-"


@dataclass(frozen=True)
class Limits:
    """How far a file may be from PyTorch.

    Attributes:
        relative: root mean square of the difference over that of the output's deviation, at most.
        same_best: share of rows of token scores whose best token is the same, at least.
    """

    relative: float
    same_best: float


# Measured on real speech with models of 0.1 to 65 M parameters, trained and random ones. fp32 differs by the order of
# sums alone: up to 2e-6, the same best token everywhere. Half-precision weights: up to 6e-4, the best token in 98 % of
# the rows or more. int8: up to 0.014; the best token in 99.6 % for trained models, in 97 % for random ones, in 90 % for
# random ones made to waver all the time. Broken int8 files (scales off by a fifth, rows of the output's weights in
# another order) differ by 0.2 to 2, or have the best token in 0 to 62 %.
LIMITS = {"fp32": Limits(1e-4, 0.99), "fp16": Limits(0.01, 0.95), "int8": Limits(0.15, 0.8)}


@dataclass(frozen=True)
class Agreement:
    """How near a file is to PyTorch.

    Attributes:
        max_difference: the largest of all outputs.
        relative: root mean square of the difference over that of the deviation of the expected output.
        same_best: share of the rows whose largest output is at the same place.
    """

    max_difference: float
    relative: float
    same_best: float


Agreements = dict[str, Agreement]


@dataclass(frozen=True)
class Draft:
    """A file to be.

    Attributes:
        name: of the file. precision: a key of `LIMITS`. write: makes it at a path.
        check: runs it; what was expected and what came out.
        scores: whether its outputs are scores of tokens, so that it counts which is best.
    """

    name: str
    precision: str
    write: Callable[[Path], None]
    check: Callable[[Path], Sequence[Pair]]
    scores: bool


def publish(drafts: Sequence[Draft], out_dir: Path) -> Agreements:
    """Write files into a folder, all or none: file name -> how near it is to PyTorch.

    Each is written after those before it, beside them, and checked before the next is.

    Raises:
        UserError: one's outputs are not PyTorch's; or the folder cannot be written.
    """
    done: Agreements = {}
    with staged(out_dir, [draft.name for draft in drafts]) as folder:
        for draft in drafts:
            path = folder / draft.name
            draft.write(path)
            found = done[draft.name] = agreement(draft.check(path))
            _refuse_disagreement(draft, found)
    for draft in drafts:
        path, found = out_dir / draft.name, done[draft.name]
        text = f"{path}: {path.stat().st_size / 1e6:.1f} MB, largest difference from PyTorch {found.max_difference:.2g}"
        logging.info(text + (f", same best token in {found.same_best:.1%} of the frames" if draft.scores else ""))
    older = [name for name in _other_precisions(done) if (out_dir / name).exists()]
    if older:
        logging.warning(
            "left from an earlier export, perhaps of other weights: %s in %s; export those too, or remove them",
            ", ".join(older),
            out_dir,
        )
    return done


def _other_precisions(names: Collection[str]) -> list[str]:
    """Files of the same models that were not written with those of ``names``."""
    stems = dict.fromkeys(_SUFFIX.sub("", name) for name in names)
    return [name for stem in stems for name in (f"{stem}.fp16.onnx", f"{stem}.int8.onnx") if name not in names]


@contextmanager
def staged(out_dir: Path, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder inside ``out_dir``, whose files of these names are moved up if all goes well.

    If not, none is, and files of these names that are there from an earlier export are named: they are not what was to
    be written now.

    Raises:
        UserError: as the one inside; the folder cannot be written, or another process exports into it.
    """
    with writing_to(out_dir), locked(out_dir / LOCK, out_dir):
        for dead in out_dir.glob(f"{_STAGE}*"):  # of a process that was killed
            shutil.rmtree(dead, ignore_errors=True)
        with TemporaryDirectory(prefix=_STAGE, dir=out_dir) as folder:
            try:
                yield Path(folder)
            except Exception as error:
                old = [name for name in names if (out_dir / name).exists()]
                left = f"left from an earlier export, not of this model: {', '.join(old)} in {out_dir}"
                if old and isinstance(error, UserError):
                    raise UserError(f"{error}; {left}") from None
                if old:
                    logging.error(left)
                raise
            written = [part for part in Path(folder).iterdir() if part.name.removesuffix(DATA_SUFFIX) in names]
            # Weights that are kept apart come first: a file is whole when it has its name.
            for part in sorted(written, key=lambda part: part.suffix != DATA_SUFFIX):
                os.replace(part, out_dir / part.name)


def agreement(pairs: Sequence[Pair]) -> Agreement:
    """How near the found outputs are to the expected ones."""
    expected = torch.cat([pair[0].float().reshape(-1, pair[0].shape[-1]) for pair in pairs])
    found = torch.cat([pair[1].float().reshape(-1, pair[1].shape[-1]) for pair in pairs])
    difference = found - expected
    deviation = (expected - expected.mean()).square().mean().sqrt()
    return Agreement(
        float(difference.abs().max()),
        float(difference.square().mean().sqrt() / deviation),
        float((expected.argmax(-1) == found.argmax(-1)).float().mean()),
    )


def _refuse_disagreement(draft: Draft, found: Agreement) -> None:
    limits = LIMITS[draft.precision]
    reasons = []
    if not found.relative <= limits.relative:
        reasons.append(f"by {found.relative:.2g} of its outputs' deviation (limit {limits.relative:g})")
    if draft.scores and not found.same_best >= limits.same_best:
        share, limit = 1 - found.same_best, 1 - limits.same_best
        reasons.append(f"on the best token of {share:.1%} of the frames (limit {limit:.1%})")
    if reasons:
        raise UserError(
            f"{draft.name} disagrees with PyTorch {' and '.join(reasons)}, and nothing was written; try the tested "
            f"torch {TESTED_TORCH[-1]}"
        )


def warn_if_untested() -> None:
    """Name a torch version that the exporters were not tested with."""
    version = torch.__version__.split("+")[0]
    if not version.startswith(tuple(f"{tested}." for tested in TESTED_TORCH)):
        logging.warning("torch %s: the exporters were tested with torch %s", version, ", ".join(TESTED_TORCH))
