"""One door to every model: a run directory, a checkpoint, a folder, ONNX files, a hub id."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from couloir.errors import UserError, must_be
from couloir.inference.backend import Backend
from couloir.inference.registry import HUB_MODELS
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
) -> Backend:
    """Open a model in the runtime that its files are for.

    Args:
        source: a run directory, a checkpoint file, a folder of checkpoints or of ONNX files, an ONNX file, or a hub id
            with or without ``@REVISION``.
        tokens: tokens.txt or bpe.model; None looks for it beside the model.
        model_type: "ctc" or "transducer" for what has both; None prefers CTC.
        runtime: "torch" or "onnx" where there are files for both; "auto" prefers torch.
        suffix: of ONNX files, such as ".int8.onnx". revision: branch, tag or commit of a hub id.
        device: "auto", "cpu" or "cuda", for torch. threads: for ONNX Runtime, 0 for one per core.
        averaging: which checkpoints of a folder to average.

    Raises:
        UserError: there is no model, or it does not fit its tokens.
    """
    from couloir.inference.hub import parse_hub_id

    if runtime not in RUNTIMES:
        raise must_be("--runtime", "one of " + ", ".join(RUNTIMES), runtime)
    path, given = Path(source), Path(tokens) if tokens else None
    if not path.exists():
        hub = parse_hub_id(str(source))
        if hub is None or path.suffix in (".onnx", ".pt", ".pth"):
            raise UserError(f"model {source} does not exist; give a path, or a hub id such as {next(iter(HUB_MODELS))}")
        repo_id, named = hub
        if runtime != "onnx":
            return _open_hub_checkpoint(repo_id, revision or named, given, device, averaging, model_type)
        from couloir.inference.hub import fetch_model

        path = fetch_model(repo_id, revision or named, suffix)
    if runtime == "onnx" or (runtime == "auto" and is_onnx(path)):
        from couloir.inference.onnx_backend import OnnxBackend

        return OnnxBackend(path, model_type=model_type, tokens=given, suffix=suffix, threads=threads)
    from couloir.inference.checkpoints import open_checkpoint

    return open_checkpoint(path, tokens=given, device=device, averaging=averaging, model_type=model_type)


def is_onnx(path: Path) -> bool:
    """Whether a path is an ONNX file or a folder that holds some and no checkpoint."""
    if path.is_file():
        return path.suffix == ".onnx"
    return any(path.glob("*.onnx")) and not (any(path.glob("*.pt")) or any(path.glob("*.pth")))


def _open_hub_checkpoint(
    repo_id: str,
    revision: str | None,
    tokens: Path | None,
    device: str,
    averaging: AveragingConfig | None,
    model_type: str | None,
) -> Backend:
    from couloir.inference.checkpoints import find_tokenizer, open_checkpoint
    from couloir.inference.hub import fetch_model, fetch_tokenizer

    folder, known = fetch_model(repo_id, revision), HUB_MODELS.get(repo_id)
    if known and known.average:
        averaging = replace(averaging or AveragingConfig(), avg=(averaging and averaging.avg) or known.average)
    if tokens is None and known:
        try:
            tokens = find_tokenizer(folder, {}, None)
        except UserError:
            tokens = fetch_tokenizer()
    backend = open_checkpoint(folder, tokens=tokens, device=device, averaging=averaging, model_type=model_type)
    if known:
        _check_size(backend, repo_id)
    backend.origin = repo_id + (f"@{revision}" if revision else "")
    return backend


def _check_size(backend: Backend, repo_id: str) -> None:
    """Refuse weights that are not of the size that the id stands for. Raises `UserError`."""
    from couloir.inference.architecture import same_sizes
    from couloir.inference.torch_backend import TorchBackend
    from couloir.models.zipformer.config import PRESETS

    assert isinstance(backend, TorchBackend)
    known, config = HUB_MODELS[repo_id], backend.model.zipformer_config
    wanted = replace(PRESETS[known.preset], output_downsampling_factor=known.output_downsampling_factor)
    if not same_sizes(config, wanted) or backend.kind != known.kind:
        raise must_be(f"the weights of {repo_id}", f"a {known.kind} model of size {known.preset}", "something else")
