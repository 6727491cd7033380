"""Training of the neural language models that decoding uses: a loop for one device."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from couloir.checkpoint import load_checkpoint
from couloir.config import flag_name
from couloir.decoding.lm import NeuralLm
from couloir.decoding.lm_checkpoint import lm_entry, save_lm
from couloir.errors import UserError, must_be
from couloir.text.tokenizer import check_sentence_mark

log = logging.getLogger(__name__)
Sentences = Sequence[Sequence[int]]
LAST = "last.pt"


def batches(sentences: Sentences, max_tokens: int, generator: torch.Generator | None) -> list[list[int]]:
    """Indices of sentences of like length, each batch of at most ``max_tokens`` padded tokens.

    ``generator`` draws the order of the batches; without one they are in order of length.
    """
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    found: list[list[int]] = []
    for i in order:  # sentences grow, so the newest is the longest
        if not found or (len(found[-1]) + 1) * (len(sentences[i]) + 1) > max_tokens:
            found.append([])
        found[-1].append(i)
    if generator is None:
        return found
    return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]


@torch.no_grad()
def perplexity(lm: NeuralLm, sentences: Sentences, max_tokens: int = 4000) -> float:
    """Perplexity per token, the sentences' ends counted."""
    lm.eval()
    total, count = 0.0, 0
    for batch in batches(sentences, max_tokens, None):
        losses, lens = lm.token_losses([sentences[i] for i in batch])
        total, count = total + float(losses.double().sum()), count + int(lens.sum())
    return math.exp(total / max(count, 1))


@dataclass
class _Progress:
    """What a run that goes on needs beside the weights; the order and dropout of an epoch follow from its number."""

    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.ReduceLROnPlateau
    history: list[float] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
        }


def train_lm(
    lm: NeuralLm,
    pieces: Sequence[str],
    sentences: Sentences,
    valid: Sentences,
    exp_dir: str | Path,
    num_epochs: int = 7,
    learning_rate: float = 1e-3,
    max_tokens: int = 4000,
    seed: int = 42,
) -> list[float]:
    """Train with Adam; keep ``epoch-N.pt`` of every epoch and ``best-valid-loss.pt`` in ``exp_dir``.

    A run that was stopped goes on after its newest epoch, as if it had never been stopped.

    Args:
        lm: on its device. pieces: its tokens by id, which checkpoints tell. sentences, valid: token ids.
        learning_rate: halved when validation does not get better. max_tokens: padded tokens of a batch.
        seed: of order and dropout.

    Returns:
        The validation perplexity of each epoch.

    Raises:
        UserError: when there is no sentence, or one has a token outside the vocabulary or a blank; when ``pieces`` have
            no sentence mark; when ``exp_dir`` holds a run of another model, of other sentences or of other settings.
    """
    check_sentence_mark(pieces, lm.sos_eos_id, "a language model")
    for name, part in (("training", sentences), ("validation", valid)):
        _check(lm, name, part)
    exp_dir, optimizer = Path(exp_dir), torch.optim.Adam(lm.parameters(), learning_rate)
    progress = _Progress(optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0))
    settings = {"lr": learning_rate, "max_tokens": max_tokens, "seed": seed, "text": _digest(sentences, valid)}
    _go_on(lm, progress, exp_dir / LAST, settings, pieces)
    history = progress.history
    for epoch in range(len(history) + 1, num_epochs + 1):
        torch.manual_seed(seed + epoch)
        lm.train()
        for batch in batches(sentences, max_tokens, torch.Generator().manual_seed(seed + epoch)):
            losses, lens = lm.token_losses([sentences[i] for i in batch])
            optimizer.zero_grad()
            (losses.sum() / lens.sum()).backward()
            torch.nn.utils.clip_grad_norm_(lm.parameters(), 5.0)
            optimizer.step()
        history.append(perplexity(lm, valid, max_tokens))
        progress.schedule.step(history[-1])
        log.info("Epoch %d, validation perplexity %.2f, lr %.2e", epoch, history[-1], optimizer.param_groups[0]["lr"])
        save_lm(exp_dir / f"epoch-{epoch}.pt", lm, pieces)
        if history[-1] == min(history):
            save_lm(exp_dir / "best-valid-loss.pt", lm, pieces)
        save_lm(exp_dir / LAST, lm, pieces, settings=settings, **progress.state())
    return history


def _check(lm: NeuralLm, name: str, part: Sentences) -> None:
    if not part:
        raise UserError(f"the {name} text of the language model must have a sentence, but is empty")
    highest, lowest = max(map(max, filter(None, part)), default=1), min(map(min, filter(None, part)), default=1)
    if highest >= lm.vocab_size or lowest < 1:
        wrong = highest if highest >= lm.vocab_size else lowest
        raise must_be(f"tokens of the {name} text", f"in 1...{lm.vocab_size - 1}", wrong, "use the same tokenizer")


def _digest(*texts: Sentences) -> str:
    found = hashlib.blake2b(digest_size=16)
    for number, text in enumerate(texts):
        for sentence in text:
            found.update(f"{number} {' '.join(map(str, sentence))}\n".encode())
    return found.hexdigest()


def _go_on(lm: NeuralLm, progress: _Progress, path: Path, settings: dict[str, Any], pieces: Sequence[str]) -> None:
    """Restore what ``path`` holds, if it is there."""
    if not path.is_file():
        return
    saved = load_checkpoint(path)
    other = "another kind, other sizes or other tokens" if saved.get("lm") != lm_entry(lm, pieces) else ""
    for name, value in settings.items():
        if not other and saved.get("settings", {}).get(name) != value:
            other = "another --lm-text or --valid-share" if name == "text" else f"another {flag_name(name)}"
    if other:
        raise must_be("--lm-exp-dir", "a new folder or one of the same training", f"{path.parent}, of {other}")
    lm.load_state_dict(saved["model"])
    progress.optimizer.load_state_dict(saved["optimizer"])
    progress.schedule.load_state_dict(saved["schedule"])
    progress.history[:] = saved["history"]
    log.info("going on after epoch %d of %s", len(progress.history), path.parent)
