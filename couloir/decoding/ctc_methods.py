"""From a CTC decoding method's name to its results."""
# Shapes: B batch, D model dimension, S output frames, V vocabulary.

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from couloir.decoding.context_graph import read_context_file
from couloir.decoding.ctc import ctc_greedy_search, ctc_nbest, ctc_prefix_beam_search
from couloir.decoding.ctc_config import FUSIONS, CtcSearchConfig
from couloir.decoding.fsa.ctc import LIMITS, ctc_graph_nbest, ctc_graph_nbest_oracle, ctc_graph_search
from couloir.decoding.fsa.graph import Graph, trivial_graph
from couloir.decoding.fsa.rescoring import (
    ATTENTION_SCALES,
    LM_SCALES,
    rescore_nbest,
    whole_lattice_rescoring,
    word_scorer,
)
from couloir.decoding.fusion import TokenScorer
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.ngram import NgramLm
from couloir.decoding.resources import open_token_ngram, read_neural_lm, read_word_graph, read_word_ngram
from couloir.decoding.search import Results
from couloir.decoding.words import GraphWords
from couloir.errors import UserError, must_be
from couloir.text.tokenizer import Tokenizer, check_sentence_mark

RESCORED_BEAM = 8  # icefall's, for the n-best list of prefix beam search that the attention decoder rescores


class CtcModel(Protocol):
    """A model with a CTC head, and perhaps an attention decoder."""

    heads_config: Any
    attention_decoder: Any

    def ctc_log_probs(self, encoder_out: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, V)."""


class CtcSearch:
    """One decoding method with all that it needs, read once.

    Args:
        config: the method and its settings. model: its CTC head, and for some methods its attention decoder, are used.
        tokenizer: the model's. device: where language models and graphs go.
        bias: (V,), added to every frame's log-probabilities; -inf for a token that may not come out.

    Raises:
        UserError: naming the file or flag, when the model lacks the head, or a graph, LM or hotword file is missing or
            does not fit the model.
    """

    def __init__(
        self,
        config: CtcSearchConfig,
        model: CtcModel,
        tokenizer: Tokenizer,
        device: torch.device,
        bias: Tensor | None = None,
    ) -> None:
        heads = model.heads_config
        if not heads.use_ctc:
            raise must_be("--exp-dir", "a model with a CTC head", "one without", "train with --use-ctc True")
        if config.uses_attention:
            _check_attention(config, model, tokenizer)
        if tokenizer.vocab_size != heads.vocab_size:
            raise must_be("tokens of the tokenizer", f"as many as the model's {heads.vocab_size}", tokenizer.vocab_size)
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.bias = _bias(config, bias, heads.vocab_size, device)
        self.sampling = (LIMITS, config.num_paths, config.nbest_scale)
        self.nbest = functools.partial(ctc_graph_nbest, with_best=config.nbest_with_best)
        self.scorers = self._read_scorers(device)
        self.words: GraphWords | None = None
        self.graph: Graph = trivial_graph(heads.vocab_size)
        if config.uses_words:
            self.graph, words = read_word_graph(config.lang_dir, tokenizer, config.hlg_scale)
            self.words = GraphWords(words, config.lang_dir, tokenizer)
        self.graph = self.graph.to(device)
        self.word_lm: NgramLm | None = None
        if config.decoding_method.endswith(("-with-ngram", "nbest-rescoring", "lattice-rescoring")):
            self.word_lm = read_word_ngram(config.lm_dir, self.words.words if self.words else []).to(device)

    @property
    def name(self) -> str:
        """As `Search.name`."""
        return self.config.decoding_method

    @property
    def suffix(self) -> str:
        """As `Search.suffix`."""
        return self.config.suffix()

    def __call__(self, encoder_out: Tensor, lens: Tensor, references: Sequence[str] = ()) -> Results:
        """As `Search.__call__`."""
        log_probs = self.model.ctc_log_probs(encoder_out)
        if self.config.uses_attention:
            return self._by_attention(self._biased(log_probs), encoder_out, lens)
        return self.of_log_probs(log_probs, lens, references)

    def of_log_probs(self, log_probs: Tensor, lens: Tensor, references: Sequence[str] = ()) -> Results:
        """As `Search.__call__` of the CTC head's output (B, S, V), for methods without the attention decoder."""
        method, log_probs = self.config.decoding_method, self._biased(log_probs)
        if self.word_lm is not None:
            return self._by_word_lm(log_probs, lens, self.word_lm)
        if method == "ctc-greedy-search":
            found = ctc_greedy_search(log_probs, lens)
        elif "prefix" in method:
            found = ctc_prefix_beam_search(log_probs, lens, self.config.beam_size, scorers=self.scorers)
        else:
            found = self._on_graph(log_probs, lens, references)
        return {self.config.result_key(): found}

    def _biased(self, log_probs: Tensor) -> Tensor:
        return log_probs if self.bias is None else (log_probs + self.bias).log_softmax(-1)

    def text_words(self, hypothesis: Hypothesis) -> list[str] | None:
        """As `Search.text_words`."""
        return self.words.texts(hypothesis) if self.words else None

    def word_lengths(self, hypothesis: Hypothesis) -> list[int]:
        """As `Search.word_lengths`."""
        return self.words.lengths(hypothesis) if self.words else []

    def _on_graph(self, log_probs: Tensor, lens: Tensor, references: Sequence[str]) -> list[Hypothesis]:
        batch = (log_probs, lens, self.graph)
        if self.config.decoding_method == "nbest":
            best = self.nbest(*batch, *self.sampling)
            return [hypotheses[0] if hypotheses else Hypothesis(score=-torch.inf) for hypotheses in best]
        if self.config.decoding_method == "nbest-oracle":
            numbers = [self._word_ids(text) for text in references]
            return ctc_graph_nbest_oracle(*batch, numbers, *self.sampling, with_best=self.config.nbest_with_best)
        return ctc_graph_search(*batch)

    def _by_word_lm(self, log_probs: Tensor, lens: Tensor, lm: NgramLm) -> Results:
        batch = (log_probs, lens, self.graph)
        if self.config.decoding_method != "nbest-rescoring":
            return whole_lattice_rescoring(*batch, lm)
        nbest = self.nbest(*batch, *self.sampling, graph_scores=False)
        scales = [round(scale, 1) for scale in LM_SCALES]
        return rescore_nbest(nbest, [("lm_scale", word_scorer(lm), scales)], Hypothesis(score=-torch.inf))

    def _by_attention(self, log_probs: Tensor, encoder_out: Tensor, lens: Tensor) -> Results:
        decoder = self.model.attention_decoder

        def attention(hypotheses: Sequence[Hypothesis], owner: Sequence[int]) -> Tensor:
            return decoder.sequence_scores(encoder_out, lens, [h.tokens for h in hypotheses], list(owner))

        scored = ("attention_scale", attention, ATTENTION_SCALES)
        if "prefix" in self.config.decoding_method:
            beam = max(RESCORED_BEAM, self.config.beam_size)
            return rescore_nbest(ctc_nbest(log_probs, lens, beam), [scored], Hypothesis())
        batch = (log_probs, lens, self.graph)
        nothing = Hypothesis(score=-torch.inf)
        if self.word_lm is None:
            return rescore_nbest(self.nbest(*batch, *self.sampling), [scored], nothing)
        words = ("ngram_lm_scale", word_scorer(self.word_lm), ATTENTION_SCALES)
        return rescore_nbest(self.nbest(*batch, *self.sampling, graph_scores=False), [words, scored], nothing)

    def _word_ids(self, text: str) -> list[int]:
        """Numbers of a text's words, -1 for one that the graph lacks; a word may also be spelt by the graph's words."""
        number = {word: i for i, word in enumerate(self.words.words if self.words else [])}
        found: list[int] = []
        for word in text.split():
            pieces = [word] if word in number else [self.tokenizer.pieces[i] for i in self.tokenizer.encode(word)]
            found += [number.get(piece, -1) for piece in pieces]
        return found

    def _read_scorers(self, device: torch.device) -> list[tuple[float, TokenScorer]]:
        config, scorers = self.config, list[tuple[float, TokenScorer]]()
        if config.decoding_method not in FUSIONS:
            return scorers
        if config.nnlm_scale:
            lm = read_neural_lm(config, config.nnlm_type, self.tokenizer)
            scorers.append((config.nnlm_scale, lm.to(device)))
        if config.lodr_lm_scale:
            ngram = open_token_ngram(config.lodr_ngram, self.tokenizer, config.backoff_id)
            scorers.append((config.lodr_lm_scale, ngram.to(device)))
        if config.context_file:
            hotwords = read_context_file(
                config.context_file, self.tokenizer, config.context_score, config.strict_hotwords
            )
            scorers.append((1.0, hotwords.to(device)))
        return scorers


def _bias(config: CtcSearchConfig, bias: Tensor | None, vocab_size: int, device: torch.device) -> Tensor | None:
    """(V,) with the blank penalty; None where nothing is added."""
    if bias is None and not config.blank_penalty:
        return None
    total = torch.zeros(vocab_size, device=device) if bias is None else bias.to(device).clone()
    total[0] -= config.blank_penalty
    return total


def _check_attention(config: CtcSearchConfig, model: CtcModel, tokenizer: Tokenizer) -> None:
    if not model.heads_config.use_attention_decoder:
        raise UserError(
            f"`--decoding-method {config.decoding_method}` needs a model with an attention decoder; train with "
            "--use-attention-decoder True"
        )
    check_sentence_mark(tokenizer.pieces, model.attention_decoder.sos_eos_id, "an attention decoder")
