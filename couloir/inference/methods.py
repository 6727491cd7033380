"""The methods of decode.py and ctc_decode.py in recognition, with those programs' settings.

The searches need torch; what they search may come from any runtime. Importing this module needs neither.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from couloir.audio import SAMPLE_RATE
from couloir.config import flag_name, from_mapping
from couloir.decoding.ctc_config import CtcSearchConfig
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.config import TransducerSearchConfig
from couloir.errors import UserError, must_be, unknown_name
from couloir.inference.backend import Backend
from couloir.inference.flags import CONFIGS, METHOD_NAMES, SETTINGS
from couloir.inference.restriction import Restriction
from couloir.text.tokenizer import Tokenizer, TokenTable, load_tokenizer

if TYPE_CHECKING:
    from couloir.decoding.ctc_methods import CtcSearch
    from couloir.decoding.transducer.methods import TransducerSearch

SearchConfig = CtcSearchConfig | TransducerSearchConfig
_KEY = re.compile(r"([a-z_]+_scale)_(\d+(?:\.\d+)?)")
_SCALES = {"lm_scale": 0.5, "ngram_lm_scale": 0.5, "attention_scale": 1.0, "lodr_scale": 0.1}
"""Of what rescoring tries, the scales that are nearest to these are taken where no result was asked for."""


def kind_of(method: str | None) -> str | None:
    """The kind of model that a method is for; None for no method, or one that there is not."""
    return next((kind for kind, names in METHOD_NAMES.items() if method in names), None)


def search_config(kind: str, settings: Mapping[str, Any], origin: str) -> SearchConfig:
    """The configuration of a method for a model of ``kind``. Raises `UserError` for settings of the other kind, too."""
    cls = CONFIGS[kind]
    names = {field.name for field in dataclasses.fields(cls)}
    if foreign := [name for name in settings if name in SETTINGS - names]:
        raise UserError(f"`{flag_name(foreign[0])}` has no meaning for a {kind} model, which {origin} is")
    method = settings.get("decoding_method")
    if kind_of(method) not in (None, kind):
        raise must_be("--decoding-method", f"one for a {kind} model, which {origin} is", method)
    return from_mapping(cls, settings)


def is_greedy(config: SearchConfig) -> bool:
    """Whether a configuration asks for what a recogniser does by itself."""
    greedy = config.decoding_method in ("ctc-greedy-search", "greedy_search")
    return greedy and vars(config).get("temperature", 1.0) == 1.0


class MethodSearch:
    """A decoding method on the frames of a backend.

    Args:
        config: the method and its settings. backend: whose frames are searched.
        restriction: the phones that may come out, if each is one piece of the model.
        result: of a method with several results, the key (or its end) of the one to take; "" takes the one of the
            scales in `_SCALES` and the flags.

    Attributes:
        whole_only: recordings must fit into one window.
        choices: what makes the results, by the names of the flags. files: that they depend on.

    Raises:
        UserError: there is no torch, the model or the restriction is not for this method, or as of the method.
    """

    def __init__(
        self, config: SearchConfig, backend: Backend, restriction: Restriction | None = None, result: str = ""
    ) -> None:
        method = config.decoding_method
        if kind_of(method) != backend.kind:
            raise must_be("--decoding-method", f"one for a {backend.kind} model, which {backend.origin} is", method)
        if method.endswith("oracle"):
            raise UserError(f"`--decoding-method {method}` needs the reference transcripts of a test set")
        if restriction and not restriction.is_mask:
            raise must_be(
                "--inventory", f"of phones that are single pieces, with --decoding-method {method}", "another"
            )
        self.config, self.backend, self.vocabulary = config, backend, backend.vocabulary
        self.whole_only = isinstance(config, CtcSearchConfig) and config.uses_attention
        self.encode = _hidden_encoder(backend, method) if self.whole_only else backend.encode
        self.search = self._opened(restriction)
        rescores = "rescor" in method
        self.key = config.result_key()
        if rescores or result:
            silence = self.encode([np.zeros(SAMPLE_RATE, np.float32)])
            self.key = _chosen(self._all_results(silence), result, config)
        changed = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        self.choices = {name: value for name, value in changed.items() if value != getattr(type(config), name)}
        self.choices |= {"decoding_method": method} | ({"result": self.key} if rescores else {})
        self.files = [path for path in _files(config) if path.is_file()]

    def _opened(self, restriction: Restriction | None) -> CtcSearch | TransducerSearch:
        try:
            import torch

            from couloir.decoding.ctc_methods import CtcSearch
            from couloir.decoding.transducer.methods import TransducerSearch
        except ImportError:
            method = self.config.decoding_method
            raise UserError(f"`--decoding-method {method}` needs torch; pip install torch, or leave it out") from None
        model, device = self.backend.searchable()
        bias = None
        if restriction:
            bias = torch.zeros(len(self.vocabulary)).masked_fill(~torch.from_numpy(restriction.allowed), -torch.inf)
        tokenizer = self._tokenizer()
        if isinstance(self.config, CtcSearchConfig):
            return CtcSearch(self.config, model, tokenizer, device, bias)
        return TransducerSearch(self.config, model, tokenizer, device, bias)

    def _tokenizer(self) -> Tokenizer:
        """The model's own, which spells hotwords as in training; of pieces without a file, a table of them."""
        source = self.vocabulary.source
        return load_tokenizer(source) if source else TokenTable(self.vocabulary.pieces)

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Hypothesis]:
        """The hypothesis of each recording, of the frames (S_i, D) that `encode` gave."""
        return self._all_results(frames)[self.key]

    def _all_results(self, frames: Sequence[np.ndarray]) -> dict[str, list[Hypothesis]]:
        import torch

        from couloir.decoding.ctc_methods import CtcSearch

        _, device = self.backend.searchable()
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(rows) for rows in frames], batch_first=True)
        batch = padded.to(device), torch.tensor([len(rows) for rows in frames], device=device)
        with torch.inference_mode():
            if isinstance(self.search, CtcSearch) and not self.whole_only:
                return self.search.of_log_probs(*batch)
            return self.search(*batch)

    def words(self, hypothesis: Hypothesis) -> tuple[list[str], list[int]] | None:
        """The words that a graph found, and how many tokens each has; None where there is no graph of words."""
        texts = self.search.text_words(hypothesis)
        return None if texts is None else (texts, self.search.word_lengths(hypothesis))


def _hidden_encoder(backend: Backend, method: str) -> Any:
    encode = getattr(backend, "encode_hidden", None)
    if encode is None:
        raise UserError(f"`--decoding-method {method}` needs a checkpoint: {backend.origin} has no attention decoder")
    return encode


def _chosen(keys: Iterable[str], wanted: str, config: SearchConfig) -> str:
    """The key that was asked for; otherwise the one whose scales are nearest to those of the flags and `_SCALES`."""
    keys = list(keys)
    if wanted:
        found = [key for key in keys if key == wanted or key.endswith(f"_{wanted}")]
        if len(found) != 1:
            raise unknown_name("--result", wanted, keys)
        return found[0]
    scales = _SCALES | {"nnlm_scale": vars(config).get("lm_scale", 0.5)}
    far = {key: sum(abs(float(value) - scales[name.strip("_")]) for name, value in _KEY.findall(key)) for key in keys}
    return min(keys, key=far.__getitem__)


def _files(config: SearchConfig) -> list[Path]:
    """The files, besides the model's, that results depend on."""
    named = [config.context_file, getattr(config, "lodr_ngram", "")]
    files = [Path(name) for name in named if name]
    on_words = config.uses_words if isinstance(config, CtcSearchConfig) else config.uses_lg
    files += [Path(config.lang_dir) / "LG.npz"] if on_words else []
    kind = config.nnlm_type if isinstance(config, CtcSearchConfig) else config.lm_type
    neural = config.nnlm_scale if isinstance(config, CtcSearchConfig) else config.uses_lm and kind != "ngram"
    return files + (config.lm_checkpoints(kind) if neural else [])
