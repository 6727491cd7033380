"""One door to every model: a run directory, a checkpoint, a folder, ONNX files, a hub id."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from couloir.audio import AUDIO_SUFFIXES
from couloir.errors import UserError, must_be
from couloir.inference.backend import Backend
from couloir.inference.registry import HUB_MODELS, TOKENIZER_DATASET
from couloir.training.config import AveragingConfig
from couloir.weight_files import WEIGHT_SUFFIXES, weight_files

if TYPE_CHECKING:
    from couloir.models.zipformer.config import ZipformerConfig

RUNTIMES = ("auto", "torch", "onnx")


def open_model(
    source: str | Path,
    *,
    tokens: str | Path | None = None,
    model_type: str | None = None,
    runtime: str = "auto",
    suffix: str = ".onnx",
    revision: str | None = None,
    device: str = "auto",
    threads: int = 0,
    averaging: AveragingConfig | None = None,
    chunk_size: int | None = None,
    left_context_frames: int | None = None,
) -> Backend:
    """Open a model in the runtime that its files are for.

    Args:
        source: a run directory, a checkpoint file, a folder of checkpoints or of ONNX files, an ONNX file, or a hub id
            with or without ``@REVISION``.
        tokens: tokens.txt or bpe.model; None looks for it beside the model. ZIPA's models that have none there get
            the tokenizer of ``anyspeech/ipapack_plus_meta``, which may be given so, with ``@REVISION``.
        model_type: "ctc" or "transducer" for what has both; None prefers CTC.
        runtime: "torch" or "onnx" where there are files for both; "auto" prefers torch, if no suffix is given.
        suffix: of ONNX files, such as ".int8.onnx". revision: branch, tag or commit of a hub id.
        device: "auto", "cpu" or "cuda", for torch. threads: for ONNX Runtime, 0 for one per core.
        averaging: which checkpoints of a folder to average.
        chunk_size, left_context_frames: what a causal model sees, in 50 Hz frames, as it would in streaming; -1 or None
            is all (but None keeps to one chunk size where a model was trained with no other).

    Raises:
        UserError: there is no model, or it does not fit its tokens, or a context is asked for that it cannot have.
    """
    if runtime not in RUNTIMES:
        raise must_be("--runtime", "one of " + ", ".join(RUNTIMES), runtime)
    if runtime == "auto" and suffix != ".onnx":
        runtime = "onnx"
    path, hub_id = locate(source, revision, runtime, suffix)
    given = _given_tokens(tokens) if tokens else None
    if runtime == "onnx" or (runtime == "auto" and is_onnx(path)):
        if {chunk_size, left_context_frames} - {None, -1}:
            raise UserError(f"`--chunk-size` needs a checkpoint: {path} was exported for full context")
        return _open_onnx(hub_id, path, given, model_type, suffix, threads)
    if hub_id in HUB_MODELS:
        if {chunk_size, left_context_frames} - {None, -1}:
            raise must_be("--chunk-size", f"-1 for {hub_id}, which was not trained for streaming", chunk_size)
        return _open_registered(hub_id, path, given, device, averaging, model_type)
    from couloir.inference.checkpoints import open_checkpoint

    return open_checkpoint(
        path,
        tokens=given,
        device=device,
        averaging=averaging,
        model_type=model_type,
        chunk_size=chunk_size,
        left_context_frames=left_context_frames,
    )


def locate(
    source: str | Path, revision: str | None = None, runtime: str = "auto", suffix: str = ".onnx"
) -> tuple[Path, str]:
    """The path that a source means, after fetching it if it is a hub id; and that id, or "".

    Raises `UserError` when it is neither, or cannot be fetched.
    """
    from couloir.inference.hub import fetch_model, parse_hub_id

    path = Path(source)
    if path.exists():
        check_kind(path)
        return path, ""
    hub = parse_hub_id(str(source))
    if hub is None or path.suffix in (".onnx", *WEIGHT_SUFFIXES):
        raise UserError(f"model {source} does not exist; give a path, or a hub id such as {next(iter(HUB_MODELS))}")
    repo_id, named = hub
    if runtime != "onnx" and _has_torch():
        folder = fetch_model(repo_id, revision or named)
        if runtime == "torch" or _holds_checkpoints(folder):
            return folder, repo_id
    return fetch_model(repo_id, revision or named, suffix), repo_id


def check_kind(path: Path) -> None:
    """Refuse as a model what is none by its kind or name. Raises `UserError`."""
    if not (path.is_file() or path.is_dir()):
        raise must_be(f"model {path}", "a file or a folder", "a pipe or a device")
    if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES:
        raise must_be(f"model {path}", "a checkpoint, an ONNX file or a folder", "a recording", "name the model first")


def is_onnx(path: Path) -> bool:
    """Whether a path is to be run by ONNX Runtime: it holds nothing else, or there is no torch."""
    if path.is_file():
        return path.suffix == ".onnx"
    return any(path.glob("*.onnx")) and not (_has_torch() and _holds_checkpoints(path))


def _holds_checkpoints(folder: Path) -> bool:
    return bool(weight_files(folder))


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _given_tokens(tokens: str | Path) -> Path:
    from couloir.inference.hub import fetch_tokenizer, parse_hub_id

    repo_id, revision = parse_hub_id(str(tokens)) or ("", None)
    return fetch_tokenizer(revision) if repo_id == TOKENIZER_DATASET and not Path(tokens).exists() else Path(tokens)


def _open_onnx(
    hub_id: str, path: Path, tokens: Path | None, model_type: str | None, suffix: str, threads: int
) -> Backend:
    """Exported files; for those of a published model the tokenizer and the kind are known."""
    from couloir.inference.onnx_backend import OnnxBackend, tokens_beside

    known = HUB_MODELS.get(hub_id)
    if known and tokens is None and not tokens_beside(path).is_file():
        from couloir.inference.hub import fetch_tokenizer

        tokens = fetch_tokenizer()
    backend = OnnxBackend(path, model_type=model_type, tokens=tokens, suffix=suffix, threads=threads)
    if known and backend.kind != known.kind:
        raise must_be(f"the ONNX files of {hub_id}", f"those of a {known.kind} model", f"those of a {backend.kind}")
    return backend


def _open_registered(
    repo_id: str,
    folder: Path,
    tokens: Path | None,
    device: str,
    averaging: AveragingConfig | None,
    model_type: str | None,
) -> Backend:
    """A published model: its tokenizer is known, its checkpoints are averaged as published, its size is checked."""
    from couloir.inference.checkpoints import open_checkpoint

    tokens, averaging = as_published(repo_id, folder, tokens, averaging or AveragingConfig())
    backend = open_checkpoint(folder, tokens=tokens, device=device, averaging=averaging, model_type=model_type)
    check_size(repo_id, backend.model.zipformer_config, backend.kind)
    return backend


def as_published(
    repo_id: str, folder: Path, tokens: Path | None, averaging: AveragingConfig
) -> tuple[Path, AveragingConfig]:
    """The tokenizer and the average of a registered model.

    Args:
        repo_id: its id. folder: its files. tokens: a tokenizer to use in place of its own. averaging: as asked for; an
            average of a certain size stays as it is.

    Raises:
        UserError: the tokenizer cannot be fetched.
    """
    from couloir.inference.checkpoints import find_tokenizer
    from couloir.inference.hub import fetch_tokenizer

    average = HUB_MODELS[repo_id].average
    if average and not averaging.avg:
        averaging = replace(averaging, avg=average)
    if tokens is None:
        try:
            tokens = find_tokenizer(folder, {}, None)
        except UserError:
            tokens = fetch_tokenizer()
    return tokens, averaging


def check_size(repo_id: str, config: ZipformerConfig, kind: str) -> None:
    """Refuse weights that are not of the size and ``kind`` that a registered id stands for. Raises `UserError`."""
    from couloir.models.zipformer.architecture import same_sizes
    from couloir.models.zipformer.config import PRESETS

    known = HUB_MODELS[repo_id]
    if not same_sizes(config, PRESETS[known.preset]) or kind != known.kind:
        raise must_be(f"the weights of {repo_id}", f"a {known.kind} model of size {known.preset}", "something else")
