"""Models from the Hugging Face hub: fetched once, read from its cache afterwards and when there is no network."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from couloir.errors import UserError, must_be
from couloir.inference.onnx_backend import PRECISIONS
from couloir.inference.registry import TOKENIZER_DATASET, TOKENIZER_FILE, TOKENIZER_PIECES_SHA256
from couloir.inference.vocabulary import read_pieces

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Nothing else of a repository is fetched, and no file of these kinds can run code when it is read.
_CHECKPOINTS = ("*.pt", "*.pth", "*.safetensors", "config.yaml", "*tokens.txt", "*.model")
_TOKENS = ("*tokens.txt",)


def parse_hub_id(source: str) -> tuple[str, str | None] | None:
    """``owner/name`` or ``owner/name@revision`` as (id, revision); None for anything else."""
    found = _HUB_ID.fullmatch(source)
    return (found[1], found[2]) if found else None


def fetch_model(repo_id: str, revision: str | None = None, onnx_suffix: str | None = None) -> Path:
    """The folder of a model's files.

    Args:
        repo_id: ``owner/name``. revision: branch, tag or commit; None is the main branch.
        onnx_suffix: fetch the ONNX files that end so, such as ".int8.onnx", in place of the checkpoints.

    Raises:
        UserError: there is no such model or revision, or no network and nothing in the cache.
    """
    wanted = {"allow_patterns": list(_CHECKPOINTS)} if onnx_suffix is None else _onnx_patterns(onnx_suffix)
    name = repo_id + (f"@{revision}" if revision else "")
    folder = Path(_fetch("snapshot_download", name, repo_id=repo_id, revision=revision, **wanted))
    if revision and _COMMIT.fullmatch(revision) and folder.name != revision:
        raise must_be(f"what the hub gave for {repo_id}", f"commit {revision}", folder.name)
    return folder


def _onnx_patterns(suffix: str) -> dict[str, list[str]]:
    """The files of one precision, with the weights that lie beside them, and the tokens.

    A transducer's small decoder may be there in full precision alone.
    """
    others = [f"*{other}" for other in PRECISIONS if other != suffix]
    wanted = [f"*{suffix}", f"*{suffix}.data", *_TOKENS, *([] if suffix == ".onnx" else ["decoder*.onnx"])]
    return {"allow_patterns": wanted, "ignore_patterns": [*others, *(f"{other}.data" for other in others)]}


def fetch_tokenizer(revision: str | None = None) -> Path:
    """ZIPA's tokenizer, which its model repositories do not hold.

    Args:
        revision: branch, tag or commit of its repository; None is the main branch.

    Raises:
        UserError: it cannot be fetched, or what came is not the vocabulary of the published models.
    """
    arguments = {"repo_id": TOKENIZER_DATASET, "filename": TOKENIZER_FILE, "repo_type": "dataset"}
    name = f"{TOKENIZER_DATASET}/{TOKENIZER_FILE}" + (f"@{revision}" if revision else "")
    path = Path(_fetch("hf_hub_download", name, revision=revision, **arguments))
    pieces = read_pieces(path)
    if hashlib.sha256("\n".join(pieces).encode()).hexdigest() != TOKENIZER_PIECES_SHA256:
        found = f"another one of {len(pieces)} pieces"
        raise must_be(f"what the hub gave for {name}", "ZIPA's vocabulary of 127 pieces", found, "give --tokens")
    return path


def _fetch(function: str, name: str, **arguments: Any) -> str:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return getattr(huggingface_hub, function)(**arguments)
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the hub has no model {name} that you may read; check the id, or log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"the hub has no revision {name}") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise UserError(
            f"{name} is not in the hub's cache and the hub cannot be reached; fetch it on a machine that can"
        ) from None
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:  # the first is the HTTP client's own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{name} could not be fetched from the hub: {reason}") from None
