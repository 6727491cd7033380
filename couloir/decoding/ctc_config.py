"""The flags of CTC decoding, icefall's names, and the names that they give to results."""

from __future__ import annotations

import dataclasses

from couloir.config import flag_name, option
from couloir.decoding.lm_config import LM_KINDS, NeuralLmConfig
from couloir.errors import UserError, must_be

FUSIONS = ("ctc-prefix-beam-search-shallow-fusion", "ctc-prefix-beam-search-shallow-fussion")  # icefall's spelling
GRAPH_METHODS = (
    "1best",
    "nbest",
    "nbest-oracle",
    "nbest-rescoring",
    "whole-lattice-rescoring",
    "attention-decoder-rescoring-with-ngram",
)
CTC_METHODS = (
    "ctc-greedy-search",
    "ctc-prefix-beam-search",
    *FUSIONS,
    "ctc-prefix-beam-search-attention-decoder-rescoring",
    "ctc-decoding",
    "attention-decoder-rescoring-no-ngram",
    *GRAPH_METHODS,
)


@dataclasses.dataclass(frozen=True)
class CtcSearchConfig(NeuralLmConfig):
    """CTC search: the method and its limits."""

    decoding_method: str = option("ctc-greedy-search", "how to search", choices=CTC_METHODS)
    blank_penalty: float = option(0.0, "taken from blank's log-probability: above 0, fewer tokens are missed")
    beam_size: int = option(4, "prefixes kept by ctc-prefix-beam-search*", unit="hypotheses")
    lang_dir: str = option("data/lang_bpe_500", "folder of LG.npz and words.txt, for the methods on a graph of words")
    hlg_scale: float = option(0.6, "scale of the graph's scores")
    num_paths: int = option(100, "nbest*, attention-decoder-rescoring*: paths sampled from the lattice")
    nbest_scale: float = option(1.0, "nbest*, attention-decoder-rescoring*: flattens the posterior that is sampled")
    nbest_with_best: bool = option(
        True,
        "nbest*, attention-decoder-rescoring*: the best path is one of the paths; in icefall it need not be",
    )
    lm_dir: str = option(
        "data/lm", "*-rescoring, *-with-ngram: folder of G_4_gram.fst.txt and words.txt, or of a word n-gram's ARPA"
    )
    nnlm_type: str = option("rnn", "shallow fusion: kind of the neural LM", choices=LM_KINDS)
    nnlm_scale: float = option(0.0, "shallow fusion: scale of the neural LM; 0: none")
    lodr_ngram: str = option("", "shallow fusion: n-gram over tokens, an ARPA file or kaldilm's .fst.txt")
    lodr_lm_scale: float = option(0.0, "shallow fusion: scale of that n-gram; below 0 it is LODR's; 0: none")
    backoff_id: int = option(500, "label of back-off arcs in --lodr-ngram where it is a .fst.txt")
    context_file: str = option("", "shallow fusion: hotwords, a phrase per line, `:score` behind it if it has its own")
    context_score: float = option(0.0, "shallow fusion: reward per token of a hotword")
    strict_hotwords: bool = option(
        True, "hotwords that overlap all count, as in icefall; otherwise none begins inside another one that is found"
    )

    def __post_init__(self) -> None:
        for name in ("beam_size", "num_paths", "nbest_scale"):
            if getattr(self, name) <= 0:
                raise must_be(flag_name(name), "above 0", getattr(self, name))
        for scale, source in (
            ("nnlm_scale", "lm_exp_dir" if self.nnlm_type == "rnn" or not self.transformer_lm_exp_dir else ""),
            ("lodr_lm_scale", "lodr_ngram"),
            ("context_score", "context_file"),
        ):
            flag, needed = flag_name(scale), flag_name(source)
            if getattr(self, scale) and self.decoding_method not in FUSIONS:
                raise UserError(f"`{flag}` needs `--decoding-method {FUSIONS[0]}`, not {self.decoding_method}")
            if getattr(self, scale) and source and not getattr(self, source):
                raise UserError(f"`{flag}` {getattr(self, scale)} needs `{needed}`")
        if self.context_file and not self.context_score:
            raise must_be("--context-score", "above 0 with --context-file", self.context_score)

    @property
    def uses_words(self) -> bool:
        """Whether the method searches a graph of words."""
        return self.decoding_method in GRAPH_METHODS

    @property
    def uses_attention(self) -> bool:
        """Whether the method rescores with the attention decoder."""
        return "attention-decoder" in self.decoding_method

    def result_key(self) -> str:
        """icefall's name of a result; rescoring has its own names."""
        method = self.decoding_method
        known = {
            "1best": "no-rescore",
            "nbest": f"no-rescore_nbest-scale-{self.nbest_scale}-{self.num_paths}",
            "nbest-oracle": f"oracle_{self.num_paths}_nbest-scale-{self.nbest_scale}",
        }
        return known.get(method, method.removeprefix("ctc-") if "prefix" in method else method)

    def suffix(self) -> str:
        """icefall's part of the names of result files: after epoch and average, before ``_use-averaged-model``."""
        penalty = f"_blank-penalty-{self.blank_penalty}" if self.blank_penalty else ""
        penalty += "" if self.nbest_with_best else "_without-best"
        if "prefix-beam-search" not in self.decoding_method:
            return penalty
        scales = (
            ("_nnlm-scale", self.nnlm_scale),
            ("_lodr-scale", self.lodr_lm_scale),
            ("_context_score", self.context_score),
            ("_strict", self.strict_hotwords if self.context_file and not self.strict_hotwords else None),
        )
        return f"_beam-{self.beam_size}" + "".join(f"{name}-{value}" for name, value in scales if value) + penalty
