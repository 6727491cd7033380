"""Greedy search with a transducer, batched."""
# Shapes: B batch, D model dimension, S output frames.

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from couloir.decoding.fsa.history import History
from couloir.decoding.fsa.result import read_hypotheses, unsorted
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.frames import PLAIN, FrameScorer, Scoring, TransducerModel
from couloir.errors import must_be

MAX_SYMBOLS = 1000


@torch.no_grad()
def greedy_search(
    model: TransducerModel,
    encoder_out: Tensor,
    lens: Tensor,
    max_sym_per_frame: int = 1,
    scoring: Scoring = PLAIN,
    *,
    max_symbols: int | None = MAX_SYMBOLS,
    first_history: Literal["none", "blanks"] = "none",
) -> list[Hypothesis]:
    """Take the likeliest token of every frame, up to ``max_sym_per_frame`` of them until blank wins.

    Args:
        model: its decoder and joiner are used. encoder_out: (B, S, D). lens: (B,) valid frames.
        max_sym_per_frame: tokens per frame at most.
        scoring: blank penalty and temperature.
        max_symbols: where a frame may give several tokens, an utterance ends after that many, 1000 in icefall; None for
            no limit.
        first_history: see `FrameScorer.start`.

    Returns:
        One hypothesis per utterance; its score is the path's log-probability.
    """
    if max_sym_per_frame < 1:
        raise must_be("--max-sym-per-frame", "at least 1", max_sym_per_frame)
    scorer = FrameScorer(model, encoder_out, lens, scoring)
    history, rows = History(), torch.arange(scorer.batch, device=encoder_out.device)
    context = scorer.start(scorer.batch, first_history)
    predicted = scorer.predictions(context) if scorer.batch else encoder_out
    score = encoder_out.new_zeros(scorer.batch, dtype=torch.float64)
    emitted_count = torch.zeros_like(rows)
    limit = max_symbols if max_sym_per_frame > 1 else None  # icefall's single-symbol search has none
    for frame in range(scorer.num_frames):
        asking = rows[: scorer.active[frame]]
        if limit is not None:
            asking = asking[emitted_count[asking] < limit]
        for _ in range(max_sym_per_frame):
            log_prob, token = scorer.log_probs(frame, asking, predicted[asking]).max(dim=-1)
            score[asking] += log_prob
            history.append(
                frame,
                rows,
                token=torch.zeros_like(rows).index_copy_(0, asking, token),
                log_prob=torch.zeros_like(score).index_copy_(0, asking, log_prob.double()),
            )
            emits = torch.nonzero(token).squeeze(1)
            asking, token = asking[emits], token[emits]
            if not len(asking):
                break
            context[asking] = torch.cat([context[asking, 1:], token[:, None]], dim=1)
            predicted[asking] = scorer.predictions(context[asking])
            if limit is not None:
                emitted_count[asking] += 1
                asking = asking[emitted_count[asking] < limit]
    return unsorted(read_hypotheses(history, rows, rows.new_full(rows.shape, len(history) - 1), score), scorer.order)
