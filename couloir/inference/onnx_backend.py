"""A model in ONNX Runtime. Needs onnxruntime and numpy: no torch, no sentencepiece.

Names, shapes and metadata of the files are icefall's, which sherpa-onnx reads too.
"""
# Shapes: D model dimension, N samples, S output frames, T frames.

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from couloir.audio import SAMPLE_RATE
from couloir.decoding.hypothesis import Hypothesis
from couloir.errors import UserError, must_be
from couloir.features.front_end import FrontEndConfig, from_metadata, numpy_front_end
from couloir.inference.frame_times import FrameTimes, frame_times
from couloir.inference.onnx_files import external_data
from couloir.inference.onnx_session import Names, integer_outputs, load_session, run_session
from couloir.inference.restricted_search import ctc_search, transducer_search
from couloir.inference.restriction import Restriction
from couloir.inference.tokenizers import tokens_beside
from couloir.inference.vocabulary import read_vocabulary, tokenizer_files
from couloir.machine import usable_cores
from couloir.models.geometry import FrameGeometry

PRECISIONS = (".int8.onnx", ".fp16.onnx")
_PART = re.compile("encoder|decoder|joiner")
FEATURES: Names = ("x", "x_lens")
AUDIO: Names = ("audio", "audio_lens")
"""Inputs of a model that holds its own features."""
PROBE_EMBEDDED = 25
"""Frames of the embedding in a run that shows the model's frame rate and its number of outputs."""
_LONGEST_CONTEXT = 64


class OnnxBackend:
    """CTC or transducer files.

    Of several recordings each runs alone on one thread, as many at a time as there are: a CPU gains nothing from
    batching them, and so neither padding nor the scales of an int8 model can make one's result depend on another's.
    A single one gets all threads.

    Args:
        path: model file, or the folder that holds model.onnx or encoder, decoder and joiner.
        model_type: "ctc" or "transducer"; None finds out.
        tokens: tokens.txt; None looks for it beside the model.
        suffix: of the files in a folder, or beside the one that is named, such as ".int8.onnx".
        threads: 0 for one per core.

    Raises:
        UserError: no such model, a damaged one, one of another type, or tokens that do not fit.
    """

    def __init__(
        self,
        path: Path,
        *,
        model_type: str | None = None,
        tokens: Path | None = None,
        suffix: str = ".onnx",
        threads: int = 0,
    ) -> None:
        self.kind = model_type or guess_type(path, suffix)
        self.origin, self.average, self.choices = str(path), "", dict[str, int]()
        self._threads = threads or usable_cores()
        self.batch_size = 8 * self._threads
        if self.kind == "ctc":
            files, self._gives = {"encoder": ctc_file(path, suffix)}, "log_probs"
        else:
            files, self._gives = transducer_files(path, suffix), "encoder_out"
            self._decoder = _open(files["decoder"], 1, ("y",), ("decoder_out",))
            self._joiner = _open(files["joiner"], 1, ("encoder_out", "decoder_out"), ("logit",))
            self._context = _context_size(self._decoder, files["decoder"])
        self._encoder_file = files["encoder"]
        self._encoder = _open(self._encoder_file, self._threads, FEATURES, (self._gives,), AUDIO)
        self._counts = _count_output(self._encoder, self._encoder_file)
        self._one_each = False
        self.config = _front_end_config(self._encoder, path)
        self._front_end = numpy_front_end(self.config)
        self.geometry = FrameGeometry.from_metadata(self._encoder.get_modelmeta().custom_metadata_map, str(path))
        self._takes = AUDIO if AUDIO[0] in _inputs(self._encoder) else FEATURES
        self.times, num_outputs = self._probe()
        self.frame_shift = self.times.shift
        tokens = tokens or tokens_beside(path)
        self.vocabulary = read_vocabulary(tokens, num_outputs, str(path))
        self.files = [*files.values(), *(data for file in files.values() for data in external_data(file))]
        self.files += tokenizer_files(tokens)

    def _probe(self) -> tuple[FrameTimes, int]:
        """When the output frames are, and the number of symbols."""
        given = self.geometry.frames_of(PROBE_EMBEDDED)
        frames = self._encode_one(np.zeros(self.config.num_samples(given), np.float32))
        if not 1 <= len(frames) <= given:
            raise must_be(f"the frames that {self._encoder_file} makes of {given}", "fewer", len(frames))
        # The frames of a model that does not sub-sample are as far apart as those of its features.
        factor = self.geometry.embedding_factor * round(PROBE_EMBEDDED / len(frames)) or 1
        times = replace(frame_times(self.geometry, self.config), shift=factor * self.config.frame_step_s)
        if self.kind == "ctc":
            return times, frames.shape[1]
        predicted = self._predict(np.zeros((1, self._context), np.int64))
        logits = self._join(frames[:1], predicted)
        if logits.ndim != 2 or len(logits) != 1 or np.isnan(logits).any():
            raise must_be(f"the joiner of {self.origin}", "one that gives a score to each symbol", _described(logits))
        return times, logits.shape[1]

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `Backend.encode`."""
        if len(waves) == 1:
            return [self._encode_one(waves[0])]
        if not self._one_each:  # from here on a recording gets one thread, which is half as fast again for many
            self._encoder, self._one_each = load_session(self._encoder_file, 1), True
        with ThreadPoolExecutor(self._threads) as pool:
            # The longest first, so that no thread is left with one at the end.
            order = sorted(range(len(waves)), key=lambda i: -len(waves[i]))
            frames = dict(zip(order, pool.map(self._encode_one, [waves[i] for i in order])))
        return [frames[i] for i in range(len(waves))]

    def _encode_one(self, wave: np.ndarray) -> np.ndarray:
        """(N,) samples -> (S, D)"""
        signal = wave if self._takes == AUDIO else self._front_end(wave)
        lengths, outputs = np.array([len(signal)]), (self._gives, self._counts)
        frames, count = run_session(self._encoder, signal[None], lengths, names=self._takes, outputs=outputs)
        fits = frames.ndim == 3 and frames.shape[0] == 1 == count.size and 0 <= count.item() <= frames.shape[1]
        rows = frames[0, : count.item()] if fits else frames
        if not fits or rows.dtype != np.float32 or np.isnan(rows).any():
            found = f"{_described(frames)} and {self._counts} {count.ravel()[:4].tolist()}"
            raise must_be(f"{self._gives} of {self._encoder_file}", f"(1, T, D), {self._counts} at most T", found)
        return rows

    def searchable(self) -> tuple[Any, Any]:
        """As `Backend.searchable`."""
        import torch

        from couloir.inference.onnx_searches import ctc_heads, transducer_heads

        size = len(self.vocabulary)
        if self.kind == "ctc":
            return ctc_heads(size), torch.device("cpu")
        return transducer_heads(self._predict, self._join, self._context, size), torch.device("cpu")

    def search(
        self,
        frames: Sequence[np.ndarray],
        bias: np.ndarray | None,
        restriction: Restriction | None = None,
        max_sym_per_frame: int = 1,
    ) -> list[Hypothesis]:
        """As `Backend.search`."""
        if self.kind == "ctc":
            return [ctc_search(rows, bias, restriction) for rows in frames]
        return transducer_search(frames, self._predict, self._join, self._context, bias, restriction, max_sym_per_frame)

    def _predict(self, histories: np.ndarray) -> np.ndarray:
        return run_session(self._decoder, histories, names=("y",))[0]

    def _join(self, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return run_session(self._joiner, encoded, predicted, names=("encoder_out", "decoder_out"))[0]


def _open(path: Path, threads: int, inputs: Names, outputs: Names, other_inputs: Names = ()) -> Any:
    """A session of a file that has these inputs, or the other ones, and, among others, these outputs."""
    session = load_session(path, threads)
    has = _inputs(session)
    if any(name.startswith("cached_") for name in has):
        raise must_be(str(path), "a non-streaming model", "a streaming one; export it with export_onnx.py")
    if other_inputs and not set(other_inputs) - set(has):
        inputs = other_inputs
    missing = (set(inputs) - set(has)) | (set(outputs) - {value.name for value in session.get_outputs()})
    if missing:
        raise must_be(str(path), f"a model with {', '.join((*inputs, *outputs))}", f"one without {sorted(missing)[0]}")
    shape = _shape(session, inputs[0])
    if other_inputs and len(shape) > 1 and isinstance(shape[1], int):
        raise must_be(
            str(path), "a model for recordings of any length", f"one for {shape[1]} frames alone", "export it again"
        )
    return session


def _front_end_config(session: Any, path: Path) -> FrontEndConfig:
    """What the file says of the features that it takes or makes. Raises `UserError` for audio of another rate."""
    metadata = session.get_modelmeta().custom_metadata_map
    config = from_metadata(metadata, str(path))
    for rate in (str(config.sample_rate), metadata.get("sample_rate", str(SAMPLE_RATE))):
        if rate != str(SAMPLE_RATE):
            raise must_be(f"the sample rate of {path}", f"{SAMPLE_RATE} Hz, at which all audio is read", rate[:20])
    return config


def _shape(session: Any, name: str) -> list[int | str]:
    """The declared shape of an input; empty where none is."""
    return next(list(value.shape or []) for value in session.get_inputs() if value.name == name)


def _count_output(session: Any, path: Path) -> str:
    """The name of the output that says how many frames are a recording's."""
    found = integer_outputs(session)
    if not found:
        raise must_be(str(path), "a model that gives the number of its frames", "one without a whole number as output")
    return found[0]


def _context_size(decoder: Any, path: Path) -> int:
    """How many symbols a transducer's decoder looks back: by its input, or else by its metadata."""
    shape = _shape(decoder, "y")
    said = shape[1] if len(shape) == 2 else None
    if not isinstance(said, int):
        said = decoder.get_modelmeta().custom_metadata_map.get("context_size", "2")
    size = int(said) if str(said).isdecimal() else 0
    if not 1 <= size <= _LONGEST_CONTEXT:
        raise must_be(f"context_size of {path}", f"a number from 1 to {_LONGEST_CONTEXT}", repr(said)[:40])
    return size


def _described(values: np.ndarray) -> str:
    return f"{tuple(values.shape)} {values.dtype}" + (" with NaN" if np.isnan(values).any() else "")


def _inputs(session: Any) -> list[str]:
    return [value.name for value in session.get_inputs()]


def guess_type(path: Path, suffix: str = ".onnx") -> str:
    """ "transducer" for a folder with an encoder, or a file of one; otherwise "ctc"."""
    folder = path if path.is_dir() else path.parent
    if path.is_file():
        return "transducer" if _PART.match(path.name) else "ctc"
    return "transducer" if _with_suffix(folder, "encoder", suffix) else "ctc"


def ctc_file(path: Path, suffix: str) -> Path:
    """The CTC model that a file's or folder's path means. Raises `UserError`."""
    if path.is_file():
        found = path.with_name("".join(_stem_and_suffix(path, suffix)))
        if not found.is_file():
            raise UserError(f"{path.parent} holds no {found.name}; {_present(path.parent)}")
        return found
    if not path.is_dir():
        raise UserError(f"model {path} does not exist")
    files = next(filter(None, (_with_suffix(path, stem, suffix) for stem in ("model", "ctc", "audio-model"))), None)
    if not files:
        if _with_suffix(path, "encoder", suffix):
            raise must_be("--model-type", "transducer", f"ctc, and {path} holds an encoder, a decoder and a joiner")
        raise UserError(f"{path} holds no model{suffix}; {_present(path)}")
    return _only(files)


def transducer_files(path: Path, suffix: str) -> dict[str, Path]:
    """Paths of "encoder", "decoder" and "joiner" in a folder, or named as one file is. Raises `UserError`."""
    if not path.exists():
        raise UserError(f"model {path} does not exist")
    folder, middle = path, "*"
    if path.is_file():
        named = _PART.match(path.name)
        if not named:
            raise must_be("--model-path", "the folder of a transducer's encoder, decoder and joiner", f"{path}")
        stem, suffix = _stem_and_suffix(path, suffix)
        folder, middle = path.parent, glob.escape(stem[named.end() :])
    files = {}
    for part in ("encoder", "decoder", "joiner"):
        found = _with_suffix(folder, part, suffix, middle)
        if not found and part == "decoder":
            found = _with_suffix(folder, part, ".onnx", middle)  # some exports leave it, small, in full precision
        if not found:
            raise UserError(f"{folder} holds no {part}{middle}{suffix} of a transducer; {_present(folder)}")
        files[part] = _only(found)
    return files


def _stem_and_suffix(path: Path, suffix: str) -> tuple[str, str]:
    """Of the file that a named one means: itself, or the one beside it where another suffix was given."""
    own = next((end for end in (*PRECISIONS, suffix) if path.name.endswith(end)), path.suffix)
    return path.name.removesuffix(own), own if suffix in (own, ".onnx") else suffix


def _with_suffix(folder: Path, stem: str, suffix: str, middle: str = "*") -> list[Path]:
    """Files STEM*SUFFIX; ".onnx" leaves out the other precisions."""
    files = sorted(folder.glob(f"{stem}{middle}{suffix}"))
    return [f for f in files if suffix != ".onnx" or not f.name.endswith(PRECISIONS)]


def _only(files: list[Path]) -> Path:
    if len(files) > 1:
        raise must_be("--model-path", "one model", f"a folder with {' and '.join(f.name for f in files[:2])}")
    return files[0]


def _present(folder: Path) -> str:
    names = sorted(f.name for f in folder.glob("*.onnx"))
    return f"there is {', '.join(names[:4])} (see --suffix)" if names else "it has no ONNX file at all"
