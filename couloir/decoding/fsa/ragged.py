"""Operations on ragged rows held as flat tensors. All are vectorised and work on any device."""
# Shapes: K distinct values, M entries, N chosen rows, R rows.

from __future__ import annotations

import torch
from torch import Tensor


def expand(splits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """All entries of the chosen rows of a ragged array.

    Args:
        splits: (R+1,) where each row begins; rows: (N,) chosen rows, repeats allowed.

    Returns:
        (M,) index into ``rows`` and (M,) index of the entry, in order of ``rows``.
    """
    begin = splits[rows]
    sizes = splits[rows + 1] - begin
    owner = torch.repeat_interleave(sizes)
    shift = begin - (sizes.cumsum(0) - sizes)
    return owner, shift[owner] + torch.arange(len(owner), device=rows.device)


def splits_of(owners: Tensor, rows: int) -> Tensor:
    """Splits (rows+1,) of entries whose ascending row numbers are ``owners`` (M,)."""
    splits = owners.new_zeros(rows + 1)
    splits[1:] = torch.bincount(owners, minlength=rows).cumsum(0)
    return splits


def unique(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending distinct values (K,) of ``keys`` (M,), and the index (M,) of each key in them."""
    values, index = torch.unique(keys, return_inverse=True)
    return values, index


def group_max(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """Maximum (groups,) of ``scores`` (M,) by ``group`` (M,); -inf for an empty group."""
    best = scores.new_full((groups,), -torch.inf)
    return best.scatter_reduce_(0, group, scores, "amax")


def group_logsumexp(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """log sum exp (groups,) of ``scores`` (M,) by ``group`` (M,); -inf for an empty group."""
    best = group_max(scores, group, groups)
    shift = best.clamp(min=torch.finfo(best.dtype).min)
    total = torch.zeros_like(best).scatter_add_(0, group, (scores - shift[group]).exp())
    return total.log() + shift


def group_first_best(scores: Tensor, group: Tensor, best: Tensor) -> Tensor:
    """For each group the first index (groups,) whose score equals the group's ``best``; every group has one."""
    at = torch.nonzero(scores == best[group]).squeeze(1)
    first = at.new_full((len(best),), len(scores))
    return first.scatter_reduce_(0, group[at], at, "amin")


def keep_best(scores: Tensor, segment: Tensor, segments: int, most: int, beam: float) -> Tensor:
    """Mask (N,) of the best entries of each segment; of equal scores the earlier is kept.

    Args:
        scores: (N,); segment: (N,) ascending segment of each; segments: how many there are.
        most: entries kept per segment; beam: largest distance from the segment's best.
    """
    splits = splits_of(segment, segments)
    longest = int(splits.diff().max()) if segments else 0
    if longest <= most:
        return scores >= (group_max(scores, segment, segments) - beam)[segment]
    position = torch.arange(len(scores), device=scores.device) - splits[segment]
    dense = scores.new_full((segments, longest), -torch.inf)
    dense[segment, position] = scores
    top = dense.topk(most, dim=1).values
    near = scores >= (top[:, 0] - beam)[segment]
    bar = top[:, -1][segment]
    ties = (scores == bar).long()
    earlier = ties.cumsum(0) - ties
    earlier = earlier - earlier[splits[segment]]
    room = most - (top > top[:, -1:]).sum(1)
    return near & ((scores > bar) | ((ties > 0) & (earlier < room[segment])))


def find(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where each ``wanted`` (N,) is in the ascending ``keys`` (K,), and whether it is there."""
    if len(keys) == 0:
        return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return at, keys[at] == wanted
