"""Choosing among sequences sampled from a lattice."""
# Shapes: P paths.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from couloir.decoding.fsa.lattice import Lattice, PathAutomaton, Paths, follow, make_lattice, sample_paths
from couloir.decoding.fsa.ragged import group_first_best, group_max
from couloir.decoding.fsa.result import read_best_paths, read_followed
from couloir.decoding.fsa.search import SearchResult
from couloir.decoding.hypothesis import Hypothesis


def paths_of(result: SearchResult, lattice: Lattice, num_paths: int, nbest_scale: float, with_best: bool) -> Paths:
    """Sampled sequences (see `sample_paths`), before which, ``with_best``, each utterance's best path has its own.

    Without it a sample of a long utterance, whose every path is unlikely, may hold none that is as good.
    """
    paths = sample_paths(lattice, num_paths, nbest_scale)
    if not with_best or not len(paths.utterance):
        return paths
    device, (utterance, group) = paths.utterance.device, torch.unique_consecutive(paths.utterance, return_inverse=True)
    words = read_best_paths(result)
    rows = [torch.tensor(words[i].words, dtype=torch.int64) for i in utterance.tolist()]
    best = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
    width = max(best.shape[1], paths.labels.shape[1])
    best, labels = (torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (best, paths.labels))
    other = (labels != best[group]).any(1)
    order = torch.sort(torch.cat([utterance, paths.utterance[other]]), stable=True).indices
    return Paths(
        torch.cat([utterance, paths.utterance[other]])[order],
        torch.cat([best, labels[other]])[order],
        torch.cat([(best > 0).sum(1), paths.length[other]])[order],
    )


def choose(
    result: SearchResult, num_paths: int, nbest_scale: float, log_sum: bool = False, with_best: bool = True
) -> list[Hypothesis]:
    """For each sorted utterance the best-scored of ``num_paths`` sampled sequences (see `paths_of`).

    ``log_sum``: score a sequence by the sum over its paths, else by the best of them.
    """
    lattice = make_lattice(result, torch.inf)
    paths = paths_of(result, lattice, num_paths, nbest_scale, with_best)
    totals = follow(lattice, paths.utterance, PathAutomaton(paths), lattice.score, log_sum).total
    return take_best(result, lattice, paths, totals)


def oracle(
    result: SearchResult,
    references: Sequence[Sequence[int]],
    num_paths: int,
    nbest_scale: float,
    beam: float = torch.inf,
    with_best: bool = True,
) -> list[Hypothesis]:
    """For each sorted utterance the sequence of `paths_of` with the fewest errors; of equals the first.

    ``beam``: of the lattice (see `make_lattice`).
    """
    from kaldialign import edit_distance

    lattice = make_lattice(result, beam)
    paths = paths_of(result, lattice, num_paths, nbest_scale, with_best)
    errors = [
        edit_distance(list(references[utterance]), labels)["total"]
        for utterance, labels in zip(paths.utterance.tolist(), paths.lists())
    ]
    return take_best(result, lattice, paths, -torch.tensor(errors, dtype=torch.float64, device=paths.utterance.device))


def take_best(result: SearchResult, lattice: Lattice, paths: Paths, value: Tensor) -> list[Hypothesis]:
    """For each utterance its path with the highest ``value`` (P,), aligned and scored by its best alignment.

    Where it has no path the score is -inf.
    """
    utterances, group = torch.unique_consecutive(paths.utterance, return_inverse=True)
    first = group_first_best(value, group, group_max(value, group, len(utterances)))
    chosen = Paths(utterances, paths.labels[first], paths.length[first])
    aligned = follow(lattice, utterances, PathAutomaton(chosen), lattice.score)
    nothing = torch.where(lattice.start < 0, result.score, -torch.inf).tolist()
    results = [Hypothesis(score=score) for score in nothing]
    for utterance, hypothesis in zip(utterances.tolist(), read_followed(aligned, lattice, aligned.total)):
        results[utterance] = hypothesis
    return results
