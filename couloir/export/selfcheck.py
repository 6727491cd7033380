"""What every exporter does before its file gets its name: run it, and compare it with PyTorch.

A probe runs a file at sizes it was not traced with and gives pairs of what was expected and what came out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from couloir.audio import SAMPLE_RATE, load_audio
from couloir.errors import UserError
from couloir.features.config import FbankConfig
from couloir.features.fbank import PADDING_LOG_MEL, Fbank
from couloir.models.asr import AsrModel
from couloir.models.zipformer.streaming import initial_states

Runner = Callable[..., Sequence[Tensor]]
Pair = tuple[Tensor, Tensor]
Probe = Callable[[Runner], list[Pair]]

TESTED_TORCH = ("2.13",)
# Root mean square of the difference over that of the output's deviation. fp32 differs by the order of sums alone;
# half-precision weights have 11 bits; int8 has 8 bits, and only a broken file is as far off as this.
TOLERANCE = {"fp32": 1e-4, "fp16": 0.05, "int8": 0.5}
SPEECH_PARTS = (1.0, 0.37, 0.71)
LONGEST_CHECK_S = 6.0


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


def warn_if_untested() -> None:
    """Name a torch version that the exporters were not tested with."""
    version = torch.__version__.split("+")[0]
    if not version.startswith(tuple(f"{tested}." for tested in TESTED_TORCH)):
        logging.warning("torch %s: the exporters were tested with torch %s", version, ", ".join(TESTED_TORCH))


def publish(
    path: Path, precision: str, write: Callable[[Path], None], check: Callable[[Path], list[Pair]]
) -> Agreement:
    """Write a file, check it, and only then give it its name.

    Raises `UserError` when its outputs are not PyTorch's; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder, because weights that are kept apart are named in the file.
    with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        write(temporary)
        found = agreement(check(temporary))
        if not found.relative <= TOLERANCE[precision]:
            raise UserError(
                f"{path.name} disagrees with PyTorch by {found.relative:.2g} of its outputs' deviation (limit "
                f"{TOLERANCE[precision]:g}) and was not written; try the tested torch {TESTED_TORCH[-1]}"
            )
        for part in sorted(Path(folder).iterdir(), key=lambda part: part == temporary):
            os.replace(part, path.with_name(part.name))
    logging.info(
        "%s: %.1f MB, largest difference from PyTorch %.2g, same best in %.1f %% of rows",
        path,
        path.stat().st_size / 1e6,
        found.max_difference,
        100 * found.same_best,
    )
    return found


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


def check_waves(recordings: str) -> list[Tensor]:
    """Waves (N_i,) of different lengths: parts of the comma-separated recordings, or else deterministic noise."""
    names = [name.strip() for name in recordings.split(",") if name.strip()]
    longest = int(LONGEST_CHECK_S * SAMPLE_RATE)
    if names:
        waves = [load_audio(name)[:longest] for name in names]
    else:
        noise = np.random.default_rng(0).standard_normal(longest // 2).astype(np.float32)
        swell = np.sin(np.linspace(0, 40, len(noise), dtype=np.float32)) ** 2
        waves = [0.1 * noise * swell]
    # Too short a part has no output frame: half a second is kept at least.
    parts = [wave[: max(int(len(wave) * part), SAMPLE_RATE // 2)] for wave in waves for part in SPEECH_PARTS]
    return [torch.from_numpy(part.copy()) for part in parts]


def features(waves: Sequence[Tensor], config: FbankConfig) -> list[Tensor]:
    """Each wave's features (T_i, F)."""
    fbank = Fbank(config)
    return [fbank(wave[None], torch.tensor([len(wave)]))[0][0] for wave in waves]


@dataclass(frozen=True)
class Shape:
    """What an offline file takes.

    Attributes:
        max_len: frames of every recording, shorter ones padded; 0 for any number.
        lengths: whether there is an input for the lengths; otherwise every recording fills its row.
    """

    max_len: int = 0
    lengths: bool = True


def offline_probe(
    reference: Callable[[Tensor, Tensor], Sequence[Tensor]],
    items: Sequence[Tensor],
    silence: float,
    shape: Shape = Shape(),
) -> Probe:
    """All items in one batch, and the second alone, against each item alone in PyTorch.

    Args:
        reference: the model in PyTorch. items: (T_i, ...) inputs. silence: what stands behind an item's end.
        shape: of the file; without lengths each item is alone.
    """
    items = [_fitted(item, shape) for item in items]
    batches = [list(range(len(items))), [1]] if shape.lengths else [[i] for i in range(len(items))]

    def probe(run: Runner) -> list[Pair]:
        pairs = []
        with torch.no_grad():
            expected = [reference(item[None], torch.tensor([len(item)]))[0][0] for item in items]
        for chosen in batches:
            batch = pad_sequence([items[i] for i in chosen], batch_first=True, padding_value=silence)
            if shape.max_len:
                batch = pad(batch, (0, 0, 0, shape.max_len - batch.shape[1]), value=silence)
            inputs = [batch, torch.tensor([len(items[i]) for i in chosen])] if shape.lengths else [batch]
            outputs, lens = run(*inputs)[:2]
            for row, i in enumerate(chosen):
                if int(lens[row]) != len(expected[i]):
                    raise UserError(f"the exported model gives {int(lens[row])} frames, PyTorch {len(expected[i])}")
                pairs.append((expected[i], outputs[row, : int(lens[row])]))
        return pairs

    return probe


def _fitted(item: Tensor, shape: Shape) -> Tensor:
    """An item that a file takes: cut to its length, or repeated where it has to fill it."""
    if shape.max_len and not shape.lengths:
        item = item.repeat(-(-shape.max_len // len(item)), 1)
    return item[: shape.max_len or len(item)]


def feature_probe(
    model: AsrModel,
    head: Callable[[Tensor], Tensor],
    items: Sequence[Tensor],
    shape: Shape = Shape(),
) -> Probe:
    """`offline_probe` of the whole model, on features (T_i, F)."""

    def reference(x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        encoded, lens = model.forward_encoder(x, lens, padding="reference")
        return head(encoded), lens

    return offline_probe(reference, items, PADDING_LOG_MEL, shape)


def audio_probe(
    model: AsrModel, head: Callable[[Tensor], Tensor], waves: Sequence[Tensor], config: FbankConfig
) -> Probe:
    """`offline_probe` of a model with its own features, on waves (N_i,); the reference has the usual ones."""
    fbank = Fbank(config)

    def reference(audio: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        feats, lens = fbank(audio, lens)
        encoded, lens = model.forward_encoder(feats, lens, padding="reference")
        return head(encoded), lens

    return offline_probe(reference, waves, 0.0)


def row_probe(module: Callable[..., Tensor], *inputs: Tensor) -> Probe:
    """A module whose rows are independent, on a batch and on its first row."""

    def probe(run: Runner) -> list[Pair]:
        with torch.no_grad():
            expected = module(*inputs)
        first = run(*(value[:1] for value in inputs))[0]
        return [(expected, run(*inputs)[0]), (expected[:1], first)]

    return probe


def streaming_probe(
    module: Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]],
    model: AsrModel,
    sizes: tuple[int, int],
    items: Sequence[Tensor],
) -> Probe:
    """Chunk after chunk, each side with its own states, of one stream and of three.

    Args:
        module: in PyTorch. model: its model. sizes: chunk and left context, 50 Hz frames. items: features (T_i, F).
    """
    chunk, left_context = sizes

    def probe(run: Runner) -> list[Pair]:
        pairs = []
        for streams in ([items[1]], list(items[:3])):
            batch = pad_sequence(streams, batch_first=True, padding_value=PADDING_LOG_MEL)
            expected_states = initial_states(model.zipformer_config, len(batch), left_context)
            states = list(expected_states)
            window = 2 * chunk + 13
            for start in range(0, batch.shape[1] - window + 1, 2 * chunk):
                part = batch[:, start : start + window]
                with torch.no_grad():
                    expected, expected_states = module(part, expected_states)
                found, *states = run(part, *states)
                pairs.append((expected, found))
        return pairs

    return probe
