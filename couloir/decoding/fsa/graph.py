"""A decoding graph as flat tensors."""
# Shapes: A arcs, E epsilon moves, G states, M output labels of an arc, M' output labels of a move.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.fsa.graph_file import TEXTS, read_graph_arrays
from couloir.decoding.fsa.ragged import expand, splits_of
from couloir.errors import UserError, must_be
from couloir.files import atomic_path

FINAL = -1
NAMES = tuple(TEXTS)
"""The fields of `Graph` that are no tensors."""


@dataclass(frozen=True)
class Graph:
    """A weighted transducer. State 0 is the start, the last state the only final one, entered by label -1 alone.

    Fields (G states, A arcs, E epsilon moves):
        splits: (G+1,) first arc of each state. label, next: (A,) int64; score: (A,) float32 log-weights.
        aux: (A, M) int64 output labels, 0 where there is none.
        moves: (G+1,), move_next, move_score (E,), move_aux (E, M'): for each state all states that it reaches
            without a token, itself included at score 0; a move takes no frame. None: every state reaches itself only.
        label 0 on an arc, as in k2: it takes a frame and pays blank's log-probability.
        pieces: the tokens that labels number, by id; empty where that is not known.
        words_digest: `digest_of` the words that output labels number; empty where that is not known.
    """

    splits: Tensor
    label: Tensor
    next: Tensor
    score: Tensor
    aux: Tensor
    moves: Tensor | None = None
    move_next: Tensor | None = None
    move_score: Tensor | None = None
    move_aux: Tensor | None = None
    pieces: tuple[str, ...] = ()
    words_digest: str = ""

    @property
    def num_states(self) -> int:
        """States, the final one included."""
        return len(self.splits) - 1

    @property
    def num_arcs(self) -> int:
        """Arcs that take a token or end."""
        return len(self.label)

    def to(self, device: torch.device | str) -> Graph:
        """The same graph on a device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: value.to(device) for name, value in tensors.items()})  # type: ignore[arg-type]

    def scaled(self, scale: float) -> Graph:
        """The same graph with all its log-weights multiplied (``--ngram-lm-scale``, ``--hlg-scale``)."""
        move_score = None if self.move_score is None else self.move_score * scale
        return replace(self, score=self.score * scale, move_score=move_score)

    def check_vocabulary(self, vocab_size: int, name: str = "the graph") -> None:
        """Raise `UserError` when a label is no token of a model with ``vocab_size`` tokens."""
        largest = int(self.label.max()) if len(self.label) else 0
        if largest >= vocab_size:
            raise must_be(f"labels of {name}", f"below the model's vocabulary size {vocab_size}", largest)

    def highest_output(self) -> int:
        """The largest output label, of arcs and moves."""
        labels = [part for part in (self.aux, self.move_aux) if part is not None and part.numel()]
        return max((int(part.max()) for part in labels), default=0)

    def is_trivial(self, vocab_size: int) -> bool:
        """Whether this is `trivial_graph`, whose arcs are in order of their labels."""
        if self.num_states != 2 or self.num_arcs != vocab_size or self.moves is not None:
            return False
        ordered = bool((self.label[:-1] == torch.arange(1, vocab_size, device=self.label.device)).all())
        return ordered and int(self.label[-1]) == FINAL and not bool(self.score.any())

    def save(self, path: str | Path) -> None:
        """Write a ``.npz``."""
        arrays = {name: value.cpu().numpy() for name, value in vars(self).items() if isinstance(value, Tensor)}
        arrays |= {name: np.array(getattr(self, name)) for name in NAMES if getattr(self, name)}
        with atomic_path(path) as temporary, open(temporary, "wb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]

    @staticmethod
    def load(path: str | Path) -> Graph:
        """Read what `save` wrote. Raises `UserError` as `read_graph_arrays`."""
        arrays = read_graph_arrays(path)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name not in NAMES}
        pieces, digest = (arrays[name].tolist() if name in arrays else "" for name in NAMES)
        return Graph(**tensors, pieces=tuple(pieces), words_digest=digest)


def digest_of(words: Sequence[str]) -> str:
    """What tells a word table from another, whatever their sizes."""
    return hashlib.blake2b("\n".join(words).encode(), digest_size=16).hexdigest()


def make_graph(
    source: Tensor,
    target: Tensor,
    label: Tensor,
    score: Tensor,
    aux: Tensor,
    num_states: int,
    sort: bool = True,
    moves: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
) -> Graph:
    """A graph of arcs in any order; see `Graph` for the fields.

    Args:
        source, target, label: (A,) int64; score: (A,); aux: (A, M). sort: order a state's arcs by label.
        moves: splits, next, score and aux of the epsilon moves.

    Raises:
        UserError: when no path leads from the start to the final state.
    """
    order = torch.sort(label, stable=True).indices if sort else torch.arange(len(label))
    order = order[torch.sort(source[order], stable=True).indices]
    splits = splits_of(source[order], num_states)
    graph = Graph(splits, label[order], target[order], score[order].float(), aux[order].long(), *(moves or ()))
    if not reaches_end(graph):
        raise UserError("the decoding graph has no path from its start to its end; check the lexicon and the LM")
    return graph


def reaches_end(graph: Graph) -> bool:
    """Whether some path leads from the start to the final state."""
    seen = torch.zeros(graph.num_states, dtype=torch.bool)
    front = torch.zeros(1, dtype=torch.int64)
    while len(front) and not bool(seen[-1]):
        seen[front] = True
        reached = [graph.next[expand(graph.splits, front)[1]]]
        if graph.moves is not None and graph.move_next is not None:
            reached.append(graph.move_next[expand(graph.moves, front)[1]])
        front = torch.cat(reached).unique()
        front = front[~seen[front]]
    return bool(seen[-1]) or graph.num_states - 1 in front.tolist()


def trivial_graph(vocab_size: int) -> Graph:
    """One state with an arc for each token but blank, and a final arc: every token sequence, at no cost."""
    tokens = torch.arange(1, vocab_size)
    zeros = torch.zeros(vocab_size, dtype=torch.int64)
    target = zeros.clone()
    target[-1] = 1
    label = torch.cat([tokens, torch.tensor([FINAL])])
    aux = torch.cat([tokens, torch.zeros(1, dtype=torch.int64)])[:, None]
    return make_graph(zeros, target, label, torch.zeros(vocab_size), aux, 2, sort=False)
