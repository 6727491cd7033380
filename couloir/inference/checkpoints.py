"""Models from PyTorch checkpoints: this project's run directories, icefall's folders, ZIPA's files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from couloir.checkpoint import load_weights
from couloir.config import from_mapping
from couloir.errors import UserError, must_be
from couloir.features.config import FbankConfig
from couloir.features.fbank import Fbank
from couloir.files import may_be_read
from couloir.inference.torch_backend import TorchBackend
from couloir.inference.vocabulary import read_vocabulary, tokenizer_files
from couloir.machine import pick_device
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.sizes import heads_config
from couloir.models.zipformer.architecture import zipformer_config
from couloir.models.zipformer.config import ZipformerConfig, check_features
from couloir.models.zipformer.model import build_model
from couloir.training.averaging import averaged_files, load_averaged
from couloir.training.config import AveragingConfig
from couloir.training.run_dir import CONFIG_FILE, saved_values

TOKENIZER_FOLDERS = ("lang", ".", "ipa_simplified", "data/lang", "../lang")


def open_checkpoint(
    source: Path,
    *,
    tokens: Path | None = None,
    device: str = "auto",
    averaging: AveragingConfig | None = None,
    model_type: str | None = None,
    chunk_size: int | None = None,
    left_context_frames: int | None = None,
) -> TorchBackend:
    """A model from a run directory, a folder of checkpoints or one file.

    Args:
        source: where the weights are. tokens: tokenizer (``bpe.model``, ``tokens.txt`` or a folder); None looks for
            it beside the weights.
        device: "auto", "cpu" or "cuda". averaging: which checkpoints of a folder to average.
        model_type: "ctc" or "transducer" for a model that has both; None prefers CTC.
        chunk_size, left_context_frames: of a causal model, as of `pretrained.open_model`.

    Raises:
        UserError: there is no checkpoint, no tokenizer, or they do not fit each other, or the model cannot have that
            context.
    """
    folder = source if source.is_dir() else source.parent
    saved = saved_values(source)
    averaging = averaging or AveragingConfig()
    weights, suffix = load_averaged(source, averaging)
    zipformer = from_mapping(ZipformerConfig, saved["zipformer"]) if saved else zipformer_config(weights, str(source))
    asked = {"chunk_size": chunk_size, "left_context_frames": left_context_frames}
    context = {name: frames for name, frames in asked.items() if frames is not None}
    if context:
        zipformer = zipformer.with_context(**context)
    heads = heads_config(weights, str(source))
    if saved:
        heads = dataclasses.replace(from_mapping(HeadsConfig, saved["heads"]), vocab_size=heads.vocab_size)
    features = from_mapping(FbankConfig, saved.get("fbank", {})) if saved else FbankConfig(zipformer.feature_dim)
    check_features(features, zipformer)
    _check_type(heads, model_type, str(source))
    tokens = find_tokenizer(folder, saved, tokens)
    vocabulary = read_vocabulary(tokens, heads.vocab_size, str(source))
    model = build_model(zipformer, heads)
    load_weights(model, weights, str(source))
    fbank = Fbank(features)
    files = [*averaged_files(source, averaging), *tokenizer_files(tokens), *folder.glob(CONFIG_FILE)]
    return TorchBackend(
        model, fbank, vocabulary, pick_device(device), f"{source} ({suffix})", model_type, files, suffix
    )


def _check_type(heads: HeadsConfig, model_type: str | None, origin: str) -> None:
    has = {"ctc": heads.use_ctc, "transducer": heads.use_transducer}
    if model_type and not has[model_type]:
        other = "ctc" if model_type == "transducer" else "transducer"
        raise must_be("--model-type", other, f"{model_type}, which {origin} has no head for")


def find_tokenizer(folder: Path, saved: Mapping[str, Any], given: Path | None) -> Path:
    """The tokenizer that was given, or the one beside the weights. Raises `UserError` when there is none."""
    if given is not None:
        return given
    candidates = [folder / name for name in TOKENIZER_FOLDERS]
    text = saved.get("text")
    named = text.get("bpe_model") if isinstance(text, Mapping) else None
    if isinstance(named, str) and named and may_be_read(named, folder):
        candidates.insert(1, Path(named))
    for place in candidates:
        if place.is_file() or (place.is_dir() and (any(place.glob("*.model")) or (place / "tokens.txt").is_file())):
            return place
    raise UserError(f"no tokenizer was found beside {folder}; name its tokens.txt or bpe.model with --tokens")
