"""Minimum word error rate over paths of a parallel decoder.

Source: Prabhavalkar et al. 2018 (arXiv:1712.01818), section 3.2; with paths of one decoder pass Gao et al. 2022
(arXiv:2206.08317), section 3.4: at randomly drawn positions the best token is masked, and the second best is taken. How
many paths and positions is not published; both are options.

Shapes: B batch, K tokens, N paths, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import kaldialign
import torch
from torch import Tensor


def masked_paths(
    log_probs: Tensor, lens: Tensor, num_paths: int, mask_prob: float, with_best: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw paths (B, N, K) of token ids, and their log-probabilities (B, N).

    Args:
        log_probs: (B, K, V). lens: (B,) tokens, of which alone a path's probability is made.
        num_paths: N. mask_prob: of each position of each path to take the second best token.
        with_best: the first path is the best one.
    """
    scores, ids = log_probs.topk(2, dim=-1)
    batch, tokens = ids.shape[:2]
    second = torch.rand(batch, num_paths, tokens, device=ids.device) < mask_prob
    if with_best:
        second[:, 0] = False
    paths = torch.where(second, ids[:, None, :, 1], ids[:, None, :, 0])
    chosen = torch.where(second, scores[:, None, :, 1], scores[:, None, :, 0])
    valid = torch.arange(tokens, device=lens.device) < lens[:, None]
    return paths, (chosen * valid[:, None]).sum(dim=-1)


def count_errors(
    paths: Tensor, lens: Tensor, references: Sequence[Sequence[int]], silent: Collection[int] = ()
) -> Tensor:
    """Edit distance (B, N) of each path to its reference.

    Args:
        paths: (B, N, K) ids. lens: (B,) tokens of a path. references: B lists of ids.
        silent: ids that are no part of a text, on either side.
    """
    dropped = set(silent)
    counts = []
    for rows, length, reference in zip(paths.tolist(), lens.tolist(), references):
        wanted = [token for token in reference if token not in dropped]
        said = [[token for token in row[:length] if token not in dropped] for row in rows]
        counts.append([kaldialign.edit_distance(wanted, row)["total"] for row in said])
    return torch.tensor(counts, dtype=torch.float32, device=paths.device)


def expected_errors(path_scores: Tensor, errors: Tensor) -> Tensor:
    """Expected errors above their plain mean, averaged over the batch; it may be below 0.

    Args:
        path_scores: (B, N) log-probabilities, by which the paths are weighed against each other. errors: (B, N).
    """
    above = errors - errors.mean(dim=1, keepdim=True)
    return (path_scores.softmax(dim=1) * above).sum(dim=1).mean()


def mwer_loss(
    log_probs: Tensor,
    lens: Tensor,
    references: Sequence[Sequence[int]],
    num_paths: int = 4,
    mask_prob: float = 0.1,
    silent: Collection[int] = (),
) -> Tensor:
    """Expected errors of paths around the best one, as `expected_errors`.

    The gradient flows through the log-probabilities of the paths' tokens alone.

    Args:
        log_probs: (B, K, V). lens: (B,) tokens. references: B lists of ids. num_paths: with the best one.
        mask_prob: as for `masked_paths`. silent: as for `count_errors`.
    """
    paths, scores = masked_paths(log_probs, lens, num_paths, mask_prob)
    return expected_errors(scores, count_errors(paths, lens, references, silent))
