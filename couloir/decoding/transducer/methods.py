"""From a decoding method's name to its results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from couloir.decoding.context_graph import ContextGraph, read_context_file
from couloir.decoding.fsa.graph import Graph, trivial_graph
from couloir.decoding.fsa.search import SearchLimits
from couloir.decoding.fusion import TokenScorer
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.lm import LODR_LM_SCALES, RESCORE_SCALES, NeuralLm, lm_rescore
from couloir.decoding.ngram import NgramLm
from couloir.decoding.resources import read_neural_lm, read_token_ngram, read_word_graph
from couloir.decoding.search import Results
from couloir.decoding.transducer.beam import modified_beam_search_nbest
from couloir.decoding.transducer.classic_beam import beam_search
from couloir.decoding.transducer.config import TransducerSearchConfig
from couloir.decoding.transducer.frames import Scoring, TransducerModel
from couloir.decoding.transducer.graph_search import (
    fast_beam_search,
    fast_beam_search_nbest,
    fast_beam_search_nbest_oracle,
)
from couloir.decoding.transducer.greedy import greedy_search
from couloir.decoding.words import GraphWords
from couloir.errors import must_be
from couloir.text.tokenizer import Tokenizer


class TransducerSearch:
    """One decoding method with all that it needs, read once.

    Args:
        config: the method and its settings. model: icefall's decoder and joiner. tokenizer: the model's.
        device: where language models and graphs go. bias: see `Scoring`.

    Raises:
        UserError: naming the file or flag, when a graph, LM or hotword file is missing or does not fit the model.
    """

    def __init__(
        self,
        config: TransducerSearchConfig,
        model: TransducerModel,
        tokenizer: Tokenizer,
        device: torch.device,
        bias: Tensor | None = None,
    ) -> None:
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.scoring = Scoring(config.blank_penalty, config.temperature, None if bias is None else bias.to(device))
        vocab_size = model.decoder.vocab_size
        if tokenizer.vocab_size != vocab_size:
            raise must_be("tokens of the tokenizer", f"as many as the model's {vocab_size}", tokenizer.vocab_size)
        self.hotwords: ContextGraph | None = None
        if config.context_file:
            hotwords = read_context_file(config.context_file, tokenizer, config.context_score, config.strict_hotwords)
            self.hotwords = hotwords.to(device)
        self.words: GraphWords | None = None
        self.graph: Graph | None = None
        if config.decoding_method.startswith("fast"):
            self.graph = self._read_graph(tokenizer).to(device)
        self.lm = self._read_lm(tokenizer).to(device) if config.uses_lm else None
        self.ngram = self._read_ngram(tokenizer).to(device) if "LODR" in config.decoding_method else None

    @property
    def name(self) -> str:
        """As `Search.name`."""
        return self.config.decoding_method

    @property
    def suffix(self) -> str:
        """As `Search.suffix`."""
        return self.config.suffix(self.model.decoder.context_size)

    def __call__(self, encoder_out: Tensor, lens: Tensor, references: Sequence[str] = ()) -> Results:
        """As `Search.__call__`."""
        config, method = self.config, self.config.decoding_method
        batch = (self.model, encoder_out, lens)
        if method.startswith("modified"):
            return self._modified(batch)
        if method == "greedy_search":
            found = greedy_search(*batch, config.max_sym_per_frame, self.scoring)
        elif method == "beam_search":
            found = beam_search(*batch, config.beam_size, self.scoring)
        else:
            found = self._fast(batch, references)
        return {config.result_key(): found}

    def text_words(self, hypothesis: Hypothesis) -> list[str] | None:
        """As `Search.text_words`."""
        return self.words.texts(hypothesis) if self.words else None

    def word_lengths(self, hypothesis: Hypothesis) -> list[int]:
        """As `Search.word_lengths`."""
        return self.words.lengths(hypothesis) if self.words else []

    def _fast(self, batch: tuple[TransducerModel, Tensor, Tensor], references: Sequence[str]) -> list[Hypothesis]:
        config, graph = self.config, self.graph
        assert graph is not None
        limits = SearchLimits(config.beam, config.max_contexts, config.max_states)
        if "nbest" not in config.decoding_method:
            return fast_beam_search(*batch, graph, limits, self.hotwords, self.scoring)
        sampling, with_best = (config.num_paths, config.nbest_scale), config.nbest_with_best
        if config.decoding_method.endswith("oracle"):
            tokens = [self.tokenizer.encode(text) for text in references]
            return fast_beam_search_nbest_oracle(
                *batch, graph, tokens, limits, *sampling, self.scoring, with_best=with_best
            )
        return fast_beam_search_nbest(
            *batch, graph, limits, *sampling, config.uses_lg, self.hotwords, self.scoring, with_best=with_best
        )

    def _modified(self, batch: tuple[TransducerModel, Tensor, Tensor]) -> Results:
        config, method = self.config, self.config.decoding_method
        scorers: list[tuple[float, TokenScorer]] = [(1.0, self.hotwords)] if self.hotwords else []
        rescores = "rescore" in method
        if self.lm is not None and not rescores:
            scorers.append((config.lm_scale, self.lm))
        if self.ngram is not None and not rescores:
            scorers.append((config.ngram_lm_scale, self.ngram))
        nbest = modified_beam_search_nbest(*batch, config.beam_size, scorers, self.scoring)
        if not rescores:
            return {config.result_key(): [hypotheses[0] for hypotheses in nbest]}
        assert self.lm is not None
        scales = RESCORE_SCALES if self.ngram is None else LODR_LM_SCALES
        rescored = lm_rescore(nbest, self.lm, scales, self.ngram)
        return {f"{config.result_key()}_{key}": hypotheses for key, hypotheses in rescored.items()}

    def _read_graph(self, tokenizer: Tokenizer) -> Graph:
        if not self.config.uses_lg:
            return trivial_graph(tokenizer.vocab_size)
        graph, words = read_word_graph(self.config.lang_dir, tokenizer, self.config.ngram_lm_scale)
        self.words = GraphWords(words, self.config.lang_dir, tokenizer)
        return graph

    def _read_lm(self, tokenizer: Tokenizer) -> NeuralLm | NgramLm:
        if self.config.lm_type == "ngram":
            return self._read_ngram(tokenizer)
        return read_neural_lm(self.config, self.config.lm_type, tokenizer)

    def _read_ngram(self, tokenizer: Tokenizer) -> NgramLm:
        config = self.config
        return read_token_ngram(config.lang_dir, config.tokens_ngram, tokenizer, config.backoff_id)
