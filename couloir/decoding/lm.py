"""Neural language models over tokens: shallow fusion, and rescoring of n-best lists."""
# Shapes: L tokens, N sequences, V vocabulary.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.ngram import NgramLm
from couloir.errors import UserError, must_be

RESCORE_SCALES = tuple(0.10 + 0.01 * i for i in range(40))
LODR_LM_SCALES = tuple(0.04 + 0.02 * i for i in range(28))
LODR_SCALES = tuple(0.05 + 0.05 * i for i in range(19))


class NeuralLm(nn.Module):
    """A language model, as a `TokenScorer`. Sentences begin and end with ``sos_eos_id``.

    Args:
        vocab_size: tokens, as the acoustic model's. sizes: the other arguments that make an equal model, which its
            checkpoints tell. sos_eos_id: icefall's 1.
    """

    kind = ""

    def __init__(self, vocab_size: int, sizes: dict[str, int | bool], sos_eos_id: int = 1) -> None:
        super().__init__()
        self.vocab_size, self.sizes, self.sos_eos_id = vocab_size, sizes, sos_eos_id

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, L, V) of the token after each of (N, L)."""

    @abstractmethod
    def start(self, rows: int, device: torch.device) -> tuple[Tensor, ...]:
        """As `TokenScorer.start`; the last part is the log-probability (rows, V) of the next token."""

    @abstractmethod
    def follow(self, state: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, ...]:
        """The states after ``tokens`` (N,)."""

    def step(self, state: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `TokenScorer.step`."""
        return state[-1].gather(1, tokens[:, None]).squeeze(1), self.follow(state, tokens)

    def preview(self, state: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        """As `TokenScorer.preview`."""
        return state[-1].gather(1, tokens)

    def final(self, state: tuple[Tensor, ...]) -> Tensor:
        """As `TokenScorer.final`: nothing, since icefall's fusion does not count the sentence's end."""
        return torch.zeros(len(state[-1]), device=state[-1].device)

    def token_losses(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Negative log-probabilities (N, L+1) of tokens and end, 0 behind them, and their counts (N,)."""
        device = next(self.parameters()).device
        lens = torch.tensor([len(sequence) + 1 for sequence in sequences])
        tokens = torch.full((len(sequences), int(lens.max()) + 1), self.sos_eos_id)
        for row, sequence in zip(tokens, sequences):
            row[1 : len(sequence) + 1] = torch.tensor(sequence, dtype=torch.int64)
        tokens, lens = tokens.to(device), lens.to(device)  # moved once, not once per sentence
        losses = nn.functional.cross_entropy(self(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")
        return losses * (torch.arange(losses.shape[1], device=device) < lens[:, None]), lens

    @torch.no_grad()
    def sequence_scores(self, sequences: Sequence[Sequence[int]], batch_size: int = 256) -> Tensor:
        """Log-probability (N,) float64 of whole sequences with the sentence's end."""
        parts = [
            -self.token_losses(sequences[i : i + batch_size])[0].double().sum(1)
            for i in range(0, len(sequences), batch_size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


class RnnLm(NeuralLm):
    """LSTM language model with icefall's parameter names.

    Args:
        vocab_size: tokens. embedding_dim, hidden_dim, num_layers: sizes. tie_weights: the output shares the embedding.
    """

    kind = "rnn"

    def __init__(
        self, vocab_size: int, embedding_dim: int = 2048, hidden_dim: int = 2048, num_layers: int = 3,
        tie_weights: bool = True, sos_eos_id: int = 1,
    ) -> None:  # fmt: skip
        sizes = {"embedding_dim": embedding_dim, "hidden_dim": hidden_dim, "num_layers": num_layers}
        super().__init__(vocab_size, {**sizes, "tie_weights": tie_weights}, sos_eos_id)
        self.input_embedding = nn.Embedding(vocab_size, embedding_dim)
        self.rnn = nn.LSTM(embedding_dim, hidden_dim, num_layers, batch_first=True)
        self.output_linear = nn.Linear(hidden_dim, vocab_size)
        if tie_weights:
            if embedding_dim != hidden_dim:
                raise must_be("--rnn-lm-embedding-dim", f"--rnn-lm-hidden-dim ({hidden_dim})", embedding_dim)
            self.output_linear.weight = self.input_embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """As `NeuralLm.forward`."""
        return self.output_linear(self.rnn(self.input_embedding(tokens))[0])

    def start(self, rows: int, device: torch.device) -> tuple[Tensor, ...]:
        """As `NeuralLm.start`; the state is the LSTM's (N, layers, H) pair and the log-probabilities."""
        zeros = self.output_linear.weight.new_zeros(rows, self.rnn.num_layers, self.rnn.hidden_size)
        begin = torch.full((rows,), self.sos_eos_id, device=device)
        return self.follow((zeros, zeros, zeros[:, 0]), begin)

    @torch.no_grad()
    def follow(self, state: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, ...]:
        """As `NeuralLm.follow`."""
        hidden, cell = (part.transpose(0, 1).contiguous() for part in state[:2])
        output, (hidden, cell) = self.rnn(self.input_embedding(tokens[:, None]), (hidden, cell))
        log_probs = self.output_linear(output[:, 0]).log_softmax(-1)
        return hidden.transpose(0, 1), cell.transpose(0, 1), log_probs


class TransformerLm(NeuralLm):
    """Causal pre-norm Transformer language model.

    Args:
        vocab_size: tokens. embedding_dim: model width. dim_feedforward, nhead, num_layers: sizes.
        tie_weights: the output shares the embedding. max_length: longest sentence in tokens.
    """

    kind = "transformer"

    def __init__(
        self, vocab_size: int, embedding_dim: int = 768, dim_feedforward: int = 2048, nhead: int = 8,
        num_layers: int = 16, tie_weights: bool = True, sos_eos_id: int = 1, max_length: int = 2000,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        sizes = {"embedding_dim": embedding_dim, "dim_feedforward": dim_feedforward, "nhead": nhead}
        others = {"num_layers": num_layers, "tie_weights": tie_weights, "max_length": max_length}
        super().__init__(vocab_size, sizes | others, sos_eos_id)
        self.input_embedding = nn.Embedding(vocab_size, embedding_dim)
        self.positions = nn.Parameter(torch.randn(max_length, embedding_dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            embedding_dim, nhead, dim_feedforward, dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(embedding_dim), enable_nested_tensor=False)
        self.output_linear = nn.Linear(embedding_dim, vocab_size)
        nn.init.normal_(self.input_embedding.weight, std=0.05)
        if tie_weights:
            self.output_linear.weight = self.input_embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """As `NeuralLm.forward`. Raises `UserError` for more tokens than ``max_length``."""
        length = tokens.shape[1]
        if length > len(self.positions):
            raise UserError(f"a sentence of {length} tokens is too long for a language model of {len(self.positions)}")
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        embedded = self.input_embedding(tokens) + self.positions[:length]
        return self.output_linear(self.encoder(embedded, mask=mask, is_causal=True))

    def start(self, rows: int, device: torch.device) -> tuple[Tensor, ...]:
        """As `NeuralLm.start`; the state is the tokens so far (N, L), their number (N,) and the log-probabilities."""
        nothing = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        begin = torch.full((rows,), self.sos_eos_id, device=device)
        return self.follow((nothing, nothing[:, 0], nothing), begin)

    @torch.no_grad()
    def follow(self, state: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, ...]:
        """As `NeuralLm.follow`."""
        history, length = state[0], state[1]
        longest = int(length.max()) + 1 if len(length) else 1
        history = nn.functional.pad(history, (0, max(0, longest - history.shape[1])))
        history = history.scatter(1, length[:, None], tokens[:, None])
        output = self(history[:, :longest])
        last = output[torch.arange(len(length), device=length.device), length]
        return history, length + 1, last.log_softmax(-1)


def lm_rescore(
    nbest: Sequence[Sequence[Hypothesis]],
    lm: NeuralLm | NgramLm,
    scales: Sequence[float] = RESCORE_SCALES,
    lodr: NgramLm | None = None,
    lodr_scales: Sequence[float] = LODR_SCALES,
) -> dict[str, list[Hypothesis]]:
    """Re-rank n-best lists by the search's score and a language model's.

    Args:
        nbest: for each utterance its hypotheses, as `modified_beam_search_nbest` gives. lm: scores whole sequences.
        scales: weights of the LM, one result each. lodr: an n-gram that stands for the internal LM: then the rank is
            score / scale + lm - lodr_scale * lodr, for every pair of scales.

    Returns:
        icefall's key of each setting, ``nnlm_scale_0.10`` or ``nnlm_scale_0.04_lodr_scale_0.05`` -> the best
        hypothesis of each utterance, its score being the search's own.
    """
    flat = [hypothesis.tokens for hypotheses in nbest for hypothesis in hypotheses]
    counts = [len(hypotheses) for hypotheses in nbest]
    lm_scores = lm.sequence_scores(flat).cpu().split(counts)
    lodr_scores = lodr.sequence_scores(flat).cpu().split(counts) if lodr else None
    searched = [torch.tensor([h.score for h in hypotheses], dtype=torch.float64) for hypotheses in nbest]
    results: dict[str, list[Hypothesis]] = {}
    for scale in scales:
        if lodr_scores is None:
            totals = [am + scale * score for am, score in zip(searched, lm_scores)]
            results[f"nnlm_scale_{scale:.2f}"] = _best(nbest, totals)
            continue
        for lodr_scale in lodr_scales:
            totals = [
                am / scale + score - lodr_scale * internal
                for am, score, internal in zip(searched, lm_scores, lodr_scores)
            ]
            results[f"nnlm_scale_{scale:.2f}_lodr_scale_{lodr_scale:.2f}"] = _best(nbest, totals)
    return results


def _best(nbest: Sequence[Sequence[Hypothesis]], totals: Sequence[Tensor]) -> list[Hypothesis]:
    return [
        hypotheses[int(total.argmax())] if len(hypotheses) else Hypothesis() for hypotheses, total in zip(nbest, totals)
    ]
