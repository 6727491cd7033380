"""Training of the neural language models that decoding uses: a loop for one device."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from couloir.decoding.lm import NeuralLm, RnnLm, TransformerLm
from couloir.errors import UserError, must_be, unknown_name
from couloir.files import atomic_path

log = logging.getLogger(__name__)
Sentences = Sequence[Sequence[int]]
KINDS = {"rnn": RnnLm, "transformer": TransformerLm}


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


def train_lm(
    lm: NeuralLm,
    sentences: Sentences,
    valid: Sentences,
    exp_dir: str | Path,
    num_epochs: int = 7,
    learning_rate: float = 1e-3,
    max_tokens: int = 4000,
    seed: int = 42,
) -> list[float]:
    """Train with Adam; keep ``epoch-N.pt`` of every epoch and ``best-valid-loss.pt`` in ``exp_dir``.

    Args:
        lm: on its device. sentences, valid: token ids. learning_rate: halved when validation does not get better.
        max_tokens: padded tokens of a batch. seed: of the order.

    Returns:
        The validation perplexity of each epoch.

    Raises:
        UserError: when there is no sentence, or one has a token outside the vocabulary or a blank.
    """
    for name, part in (("training", sentences), ("validation", valid)):
        if not part:
            raise UserError(f"the {name} text of the language model must have a sentence, but is empty")
        highest, lowest = max(map(max, filter(None, part)), default=1), min(map(min, filter(None, part)), default=1)
        if highest >= lm.vocab_size or lowest < 1:
            wrong = highest if highest >= lm.vocab_size else lowest
            raise must_be(f"tokens of the {name} text", f"in 1...{lm.vocab_size - 1}", wrong, "use the same tokenizer")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(lm.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    history: list[float] = []
    for epoch in range(1, num_epochs + 1):
        lm.train()
        for batch in batches(sentences, max_tokens, generator):
            losses, lens = lm.token_losses([sentences[i] for i in batch])
            optimizer.zero_grad()
            (losses.sum() / lens.sum()).backward()
            torch.nn.utils.clip_grad_norm_(lm.parameters(), 5.0)
            optimizer.step()
        history.append(perplexity(lm, valid, max_tokens))
        schedule.step(history[-1])
        log.info("Epoch %d, validation perplexity %.2f, lr %.2e", epoch, history[-1], optimizer.param_groups[0]["lr"])
        _save(lm, Path(exp_dir) / f"epoch-{epoch}.pt")
        if history[-1] == min(history):
            _save(lm, Path(exp_dir) / "best-valid-loss.pt")
    return history


def _save(lm: NeuralLm, path: Path) -> None:
    with atomic_path(path) as temporary:
        torch.save({"model": lm.state_dict()}, temporary)


def load_lm(kind: str, path: str | Path, vocab_size: int, **sizes: int | bool) -> NeuralLm:
    """Read an LM's checkpoint, ready for decoding.

    Args:
        kind: ``--lm-type``. path: of a file with a ``model`` entry or a bare state dict, ours or icefall's RNN LM.
        vocab_size: of the acoustic model. sizes: the other arguments of `RnnLm` or `TransformerLm`.

    Raises:
        UserError: when the file is missing, or holds an LM of another vocabulary or other sizes.
    """
    if kind not in KINDS:
        raise unknown_name("--lm-type", kind, list(KINDS))
    if not Path(path).is_file():
        raise UserError(f"language model {path} does not exist; train it with train_lm.py or give --lm-exp-dir")
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("model", state)
    embedding = state.get("input_embedding.weight")
    if embedding is None:
        raise must_be(str(path), f"a checkpoint of a {kind} language model", "something else")
    if len(embedding) != vocab_size:
        raise must_be("--lm-vocab-size", f"the model's vocabulary size {vocab_size}", len(embedding))
    lm = KINDS[kind](vocab_size, **sizes)  # type: ignore[arg-type]
    try:
        lm.load_state_dict(state)
    except RuntimeError as error:
        raise must_be(f"sizes of {path}", "those given by the flags", str(error).splitlines()[1].strip()) from None
    return lm.eval()
