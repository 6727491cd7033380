"""What a file is run on before it gets its name: real speech, at sizes that it was not traced with.

A probe runs a file so and gives pairs of what PyTorch gives and what came out.
"""
# Shapes: F feature bins, T frames.

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from couloir.audio import SAMPLE_RATE, load_audio
from couloir.errors import UserError, must_be
from couloir.export.modules import StreamingEncoder
from couloir.export.parts import OfflinePart, RowsPart
from couloir.export.publish import Pair
from couloir.features.front_end import FrontEndConfig, make_front_end
from couloir.models.common.streaming import Streaming

Runner = Callable[..., Sequence[Tensor]]
Probe = Callable[[Runner], list[Pair]]

CHECK_SPEECH = Path(__file__).with_name("check_speech.flac")
SPEECH_PARTS = (1.0, 0.37, 0.71)
SHORTEST_PART_S = 0.5
LONGEST_CHECK_S = 6.0
CHUNKS = 4
"""Chunks of a stream that are checked, at least."""


def check_waves(recordings: str) -> list[Tensor]:
    """Waves (N_i,) of different lengths: parts of the comma-separated recordings, or else of the one that comes along.

    Raises `UserError` for a recording that cannot be read or is too short.
    """
    names = [name.strip() for name in recordings.split(",") if name.strip()] or [str(CHECK_SPEECH)]
    waves = [load_audio(name)[: int(LONGEST_CHECK_S * SAMPLE_RATE)] for name in names]
    shortest = int(SHORTEST_PART_S * SAMPLE_RATE)
    for name, wave in zip(names, waves):
        if len(wave) < shortest:
            raise must_be("--check-wav", f"recordings of at least {SHORTEST_PART_S} s", f"{name}, which is shorter")
    parts = [wave[: max(int(len(wave) * part), shortest)] for wave in waves for part in SPEECH_PARTS]
    return [torch.from_numpy(part.copy()) for part in parts]


def features(waves: Sequence[Tensor], config: FrontEndConfig) -> list[Tensor]:
    """Each wave's features (T_i, F)."""
    front_end = make_front_end(config)
    return [front_end(wave[None], torch.tensor([len(wave)]))[0][0] for wave in waves]


@dataclass(frozen=True)
class Shape:
    """What an offline file takes.

    Attributes:
        max_len: frames (or samples) of every recording, shorter ones padded; 0 for any number.
        lengths: whether there is an input for the lengths; otherwise every recording fills its row.
        alone: it takes one recording at a time.
    """

    max_len: int = 0
    lengths: bool = True
    alone: bool = False


def _offline_probe(
    reference: Callable[[Tensor, Tensor], Sequence[Tensor]],
    items: Sequence[Tensor],
    silence: float,
    shape: Shape,
    shortest: int,
) -> Probe:
    """Items of many lengths in one batch, and some of them alone, against each item alone in PyTorch.

    Args:
        reference: the model in PyTorch. items: (T_i, ...) inputs. silence: what stands behind an item's end.
        shape: of the file. shortest: T that gives one frame of the output.
    """
    count, items = len(items), _fitted(items, shape, shortest)
    together = shape.lengths and not shape.alone
    # The shortest stands behind the ones that were given, and the longest behind it.
    batches = [[*range(count + 1)], [1], *([i] for i in range(count, len(items)))]
    batches = batches if together else [[i] for i in range(len(items))]

    @functools.cache
    def expected_of(i: int) -> Tensor:
        with torch.no_grad():
            return reference(items[i][None], torch.tensor([len(items[i])]))[0][0]

    def probe(run: Runner) -> list[Pair]:
        pairs = []
        for chosen in batches:
            # An item of the full length, dropped again, makes the others as long.
            full = items[0].new_zeros(shape.max_len, *items[0].shape[1:])
            batch = pad_sequence([*(items[i] for i in chosen), full], batch_first=True, padding_value=silence)[:-1]
            inputs = [batch, torch.tensor([len(items[i]) for i in chosen])] if shape.lengths else [batch]
            outputs, lens = run(*inputs)[:2]
            for row, i in enumerate(chosen):
                expected, frames = expected_of(i), int(lens[row])
                if frames != len(expected):
                    raise UserError(f"the exported model gives {frames} frames, PyTorch {len(expected)}")
                pairs.append((expected, outputs[row, :frames]))
        return pairs

    return probe


def _fitted(items: Sequence[Tensor], shape: Shape, shortest: int) -> list[Tensor]:
    """The items, cut or repeated to a file's length; behind them the shortest possible one, and one longer than all."""
    if shape.max_len and not shape.lengths:
        return [torch.cat([item] * -(-shape.max_len // len(item)))[: shape.max_len] for item in items]
    cut = [item[: shape.max_len or len(item)] for item in items]
    middle = len(items[0]) // 2
    longest = [] if shape.max_len else [torch.cat([items[0], items[1]])]
    return [*cut, items[0][middle : middle + shortest], *longest]


def feature_probe(part: OfflinePart, items: Sequence[Tensor], padding: float, shape: Shape = Shape()) -> Probe:
    """A file that takes features against the whole model, on features (T_i, F) and parts of them.

    ``padding`` stands behind the end of an item.
    """
    return _offline_probe(part.reference, items, padding, shape, part.geometry.shortest)


def audio_probe(part: OfflinePart, waves: Sequence[Tensor], config: FrontEndConfig, shape: Shape = Shape()) -> Probe:
    """A file that takes samples, on waves (N_i,) and parts of them; the reference has the usual features."""
    front_end = make_front_end(config)

    def reference(audio: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        return part.reference(*front_end(audio, lens))

    return _offline_probe(reference, waves, 0.0, shape, config.min_samples(part.geometry.shortest))


def rows_probe(part: RowsPart, item: Tensor, alone: bool = False) -> Probe:
    """A part whose rows are independent, on all that an item of features (T, F) has at once and on the first, or on
    each ``alone``."""

    def probe(run: Runner) -> list[Pair]:
        with torch.no_grad():
            inputs = part.rows(item)
            expected = part.module(*inputs)
        count = len(expected)
        rows = [slice(i, i + 1) for i in range(count)] if alone else [slice(count), slice(1)]
        return [(expected[which], run(*(value[which] for value in inputs))[0]) for which in rows]

    return probe


def streaming_probe(
    module: StreamingEncoder, streaming: Streaming, items: Sequence[Tensor], padding: float, alone: bool = False
) -> Probe:
    """Chunk after chunk, each side with its own states, of one stream and of three, or of two ``alone``.

    Args:
        module: in PyTorch. streaming: its geometry and first states. items: features (T_i, F), repeated where they are
            too short for `CHUNKS`. padding: what stands behind an item's end.
    """
    window, step = streaming.window_frames, streaming.chunk_frames
    enough = window + (CHUNKS - 1) * step
    items = [torch.cat([item] * max(1, -(-enough // len(item)))) for item in items]

    def stream(run: Runner) -> list[Tensor]:
        outputs = []
        for streams in ([items[1]], items[:1] if alone else items[:3]):
            batch = pad_sequence(list(streams), batch_first=True, padding_value=padding)
            states: Sequence[Tensor] = streaming.initial(len(batch))
            for start in range(0, batch.shape[1] - window + 1, step):
                output, *states = run(batch[:, start : start + window], *states)
                outputs.append(output)
        return outputs

    @torch.no_grad()
    def reference(part: Tensor, *states: Tensor) -> list[Tensor]:
        output, new_states = module(part, list(states))
        return [output, *new_states]

    @functools.cache
    def expected() -> list[Tensor]:
        return stream(reference)

    return lambda run: list(zip(expected(), stream(run)))
