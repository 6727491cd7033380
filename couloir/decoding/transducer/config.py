"""The flags of transducer decoding, icefall's names, and the names that they give to results."""

from __future__ import annotations

import dataclasses

from couloir.config import flag_name, option
from couloir.decoding.lm_config import LM_KINDS, NeuralLmConfig
from couloir.errors import UserError, must_be

METHODS = (
    "greedy_search",
    "beam_search",
    "modified_beam_search",
    "modified_beam_search_lm_shallow_fusion",
    "modified_beam_search_LODR",
    "modified_beam_search_lm_rescore",
    "modified_beam_search_lm_rescore_LODR",
    "fast_beam_search",
    "fast_beam_search_LG",
    "fast_beam_search_nbest",
    "fast_beam_search_nbest_LG",
    "fast_beam_search_nbest_oracle",
)
WITHOUT_HOTWORDS = ("greedy_search", "beam_search", "fast_beam_search_nbest_oracle")


@dataclasses.dataclass(frozen=True)
class TransducerSearchConfig(NeuralLmConfig):
    """Transducer search: the method and its limits."""

    decoding_method: str = option("greedy_search", "how to search", choices=METHODS)
    beam_size: int = option(4, "hypotheses kept by beam_search and modified_beam_search*")
    beam: float = option(20.0, "fast_beam_search*: distance from the best at which states are dropped", unit="nats")
    max_contexts: int = option(8, "fast_beam_search*: token histories kept per frame")
    max_states: int = option(64, "fast_beam_search*: states kept per frame")
    max_sym_per_frame: int = option(1, "greedy_search: tokens per frame at most")
    num_paths: int = option(200, "fast_beam_search_nbest*: paths sampled from the lattice")
    nbest_scale: float = option(0.5, "fast_beam_search_nbest*: flattens the posterior that is sampled")
    ngram_lm_scale: float = option(0.01, "scale of LG's scores, and of the LODR n-gram (there below 0)")
    blank_penalty: float = option(0.0, "taken from blank's logit")
    temperature: float = option(1.0, "logits are divided by it")
    lang_dir: str = option("data/lang_bpe_500", "folder of LG.npz, words.txt and the LODR n-gram")
    context_file: str = option("", "hotwords: a phrase per line, `:score` behind it where it has its own")
    context_score: float = option(2.0, "reward per token of a hotword")
    strict_hotwords: bool = option(
        False, "hotwords that overlap all count; otherwise, as in icefall, none begins inside another one that is found"
    )
    ilme_scale: float = option(0.0, "icefall's scale of an internal LM; nothing but 0 is done here", hidden=True)
    nbest_with_best: bool = option(
        True, "fast_beam_search_nbest*: the best path is one of the paths; in icefall it need not be"
    )
    use_shallow_fusion: bool | None = option(None, "implied by the methods that use an LM", hidden=True)
    lm_type: str = option(
        "rnn", "kind of the LM; ngram: the one of --tokens-ngram, without a neural LM", choices=(*LM_KINDS, "ngram")
    )
    lm_scale: float = option(0.3, "scale of the LM in shallow fusion and LODR; rescoring tries its own scales")
    tokens_ngram: int = option(2, "order of the n-gram over tokens, {n}gram.fst.txt or {n}gram.arpa in --lang-dir")
    backoff_id: int = option(500, "label of back-off arcs in {n}gram.fst.txt")

    def __post_init__(self) -> None:
        for name in (
            "beam_size", "beam", "max_contexts", "max_states", "max_sym_per_frame", "num_paths", "nbest_scale",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise must_be(flag_name(name), "above 0", getattr(self, name))
        if self.lm_type == "ngram" and "LODR" in self.decoding_method:
            raise must_be("--lm-type", f"a neural LM for {self.decoding_method}", "ngram")
        own = self.transformer_lm_exp_dir if self.lm_type == "transformer" else ""
        if self.uses_lm and self.lm_type != "ngram" and not (own or self.lm_exp_dir):
            raise UserError(f"`--decoding-method {self.decoding_method}` needs `--lm-exp-dir`")
        if self.use_shallow_fusion and not self.uses_lm:
            raise UserError(f"`--use-shallow-fusion` has no effect with `--decoding-method {self.decoding_method}`")
        if self.use_shallow_fusion is False and self.fuses_lm:
            raise must_be("--use-shallow-fusion", f"True with --decoding-method {self.decoding_method}", False)
        if self.context_file and self.decoding_method in WITHOUT_HOTWORDS:
            raise UserError(
                f"`--context-file` needs a modified_beam_search or fast_beam_search, not {self.decoding_method}"
            )
        if self.ilme_scale:
            raise must_be("--ilme-scale", "0", self.ilme_scale, "no internal language model is taken off here")
        if self.context_score < 0:
            raise must_be("--context-score", "at least 0", self.context_score)
        if self.decoding_method == "modified_beam_search_LODR" and self.ngram_lm_scale > 0:
            raise must_be("--ngram-lm-scale", "below 0 for modified_beam_search_LODR", self.ngram_lm_scale)

    @property
    def uses_lm(self) -> bool:
        """Whether the method takes a language model beside LODR's."""
        return "_lm_" in self.decoding_method or "LODR" in self.decoding_method

    @property
    def fuses_lm(self) -> bool:
        """Whether that language model takes part in the search, and not in rescoring alone."""
        return self.uses_lm and "rescore" not in self.decoding_method

    @property
    def uses_lg(self) -> bool:
        """Whether the method searches an LG graph."""
        return self.decoding_method.endswith("_LG")

    def result_key(self) -> str:
        """icefall's name of a result; rescoring appends its own."""
        method = self.decoding_method
        if method == "greedy_search":
            return method
        if method.startswith("fast"):
            return method + self._fast_limits(("num-paths", "nbest-scale")) + self._contexts("_")
        return f"{method}_beam-size-{self.beam_size}" + self._contexts("_")

    def suffix(self, context_size: int) -> str:
        """icefall's part of the names of result files: after epoch and average, before ``_use-averaged-model``."""
        penalty = f"_blank-penalty-{self.blank_penalty}" if self.blank_penalty else ""
        temperature = f"_temperature-{self.temperature}" if self.temperature != 1.0 else ""
        return self._method_suffix(context_size) + penalty + temperature

    def _method_suffix(self, context_size: int) -> str:
        method = self.decoding_method
        if method.startswith("fast"):
            return self._fast_limits(("nbest-scale", "num-paths")) + self._contexts("_")
        if method == "greedy_search":
            return f"_context-{context_size}_max-sym-per-frame-{self.max_sym_per_frame}"
        fusion = f"_{self.lm_type}-lm-scale-{self.lm_scale}" if self.fuses_lm else ""
        if self.fuses_lm and "LODR" in method:
            fusion += f"_LODR-{self.tokens_ngram}gram-scale-{self.ngram_lm_scale}"
        return f"__{method}__beam-size-{self.beam_size}" + self._contexts("-") + fusion

    def _contexts(self, joint: str) -> str:
        strict = f"{joint}strict" if self.strict_hotwords else ""
        return f"{joint}context-score-{self.context_score}{strict}" if self.context_file else ""

    def _fast_limits(self, order: tuple[str, str]) -> str:
        name = f"_beam-{self.beam}_max-contexts-{self.max_contexts}_max-states-{self.max_states}"
        if "nbest" in self.decoding_method:
            name += "".join(f"_{flag}-{getattr(self, flag.replace('-', '_'))}" for flag in order)
            name += "" if self.nbest_with_best else "_without-best"
        return name + (f"_ngram-lm-scale-{self.ngram_lm_scale}" if self.uses_lg else "")
