"""One door to every model: a run directory, a checkpoint, a folder, ONNX files, a hub id."""

from __future__ import annotations

from pathlib import Path

from couloir.errors import UserError, must_be
from couloir.inference.backend import Backend
from couloir.inference.registry import HUB_MODELS, TOKENIZER_DATASET
from couloir.inference.source import Source, is_onnx, locate
from couloir.inference.tokenizers import tokens_beside
from couloir.training.config import AveragingConfig

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
    if hub_id in HUB_MODELS and {chunk_size, left_context_frames} - {None, -1}:
        raise must_be("--chunk-size", f"-1 for {hub_id}, which was not trained for streaming", chunk_size)
    from couloir.inference.loading import open_backend

    return open_backend(
        Source(path, hub_id),
        tokens=given,
        device=device,
        averaging=averaging,
        model_type=model_type,
        chunk_size=chunk_size,
        left_context_frames=left_context_frames,
    )


def _given_tokens(tokens: str | Path) -> Path:
    from couloir.inference.hub import fetch_tokenizer, parse_hub_id

    repo_id, revision = parse_hub_id(str(tokens)) or ("", None)
    return fetch_tokenizer(revision) if repo_id == TOKENIZER_DATASET and not Path(tokens).exists() else Path(tokens)


def _open_onnx(
    hub_id: str, path: Path, tokens: Path | None, model_type: str | None, suffix: str, threads: int
) -> Backend:
    """Exported files; for those of a published model the tokenizer and the kind are known."""
    from couloir.inference.onnx_backend import OnnxBackend

    known = HUB_MODELS.get(hub_id)
    if known and tokens is None and not tokens_beside(path).is_file():
        from couloir.inference.hub import fetch_tokenizer

        tokens = fetch_tokenizer()
    backend = OnnxBackend(path, model_type=model_type, tokens=tokens, suffix=suffix, threads=threads)
    if known and backend.kind != known.kind:
        raise must_be(f"the ONNX files of {hub_id}", f"those of a {known.kind} model", f"those of a {backend.kind}")
    return backend
