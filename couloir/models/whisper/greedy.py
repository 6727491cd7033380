"""Greedy decoding of features by a Whisper's decoder, under OpenAI's rules.

Source: Radford et al. 2022 (arXiv:2212.04356), section 4.5.

Shapes: B batch, S encoder frames, D channels, K tokens so far, V vocabulary, L languages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from couloir.models.whisper.model import TextDecoder
from couloir.models.whisper.special import BLANK, NON_SPEECH, SpecialTokens


@dataclass(frozen=True)
class GreedyOptions:
    """How to decode.

    Attributes:
        language: id of the language's token; None: the likeliest for each item. A model of English alone is given
            neither it nor the task. translate: into English.
        timestamps: have tokens of times in the text. prompt: ids of the text before; of long ones the end is used.
        max_tokens: at which a text ends. suppressed: ids that no text has, besides the special ones; by default
            those of the multilingual vocabularies.
        blank: an id that no text begins with. latest_begin: the last timestamp, counted from 0 s in 20 ms, that the
            first may be; None: any.
    """

    language: int | None = None
    translate: bool = False
    timestamps: bool = True
    prompt: tuple[int, ...] = ()
    max_tokens: int = 224
    suppressed: tuple[int, ...] = NON_SPEECH
    blank: int = BLANK
    latest_begin: int | None = 50


@dataclass(frozen=True)
class Decoded:
    """One item's text.

    Attributes:
        tokens: ids, timestamps among them, without the end. language: id of its token. average: log-probability per
            token, the end counted. no_speech: probability that there is none.
    """

    tokens: list[int]
    language: int
    average: float
    no_speech: float


@torch.no_grad()
def language_probs(decoder: TextDecoder, encoded: Tensor, special: SpecialTokens) -> Tensor:
    """Encoder output (B, S, D) -> probabilities (B, L) of the languages, in the order of their tokens."""
    start = torch.full((len(encoded), 1), special.start, device=encoded.device)
    logits = decoder(start, encoded)[:, -1]
    return logits[:, special.first_language : special.translate].softmax(dim=-1)


@torch.no_grad()
def decode_greedily(
    decoder: TextDecoder, encoded: Tensor, special: SpecialTokens, options: GreedyOptions | None = None
) -> list[Decoded]:
    """Encoder output (B, S, D), or what stands in its place -> texts of the B items."""
    options = options or GreedyOptions()
    languages = _languages(decoder, encoded, special, options.language)
    context = decoder.positional_embedding.shape[0]
    prefix, start = _prefix(languages, special, options, context)
    rules, state = _Rules(special, options, encoded.device), decoder.start(encoded)
    length = prefix.shape[1]
    first = decoder.step(prefix, state, [start, length - 1])
    no_speech, logits = first[:, 0].softmax(dim=-1)[:, special.no_speech], first[:, 1]
    tokens = prefix.new_empty(len(encoded), 0)
    total, ended = logits.new_zeros(len(encoded)), torch.zeros_like(languages, dtype=torch.bool)
    while True:
        log_probs = rules.apply(logits, tokens).log_softmax(dim=-1)
        best, chosen = log_probs.max(dim=-1)
        total += best.masked_fill(ended, 0.0)
        chosen = chosen.masked_fill(ended, special.end)
        ended = ended | (chosen == special.end)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        if ended.all() or tokens.shape[1] >= options.max_tokens or length + tokens.shape[1] > context:
            break
        logits = decoder.step(chosen[:, None], state)[:, -1]
    texts = [row[: row.index(special.end)] if special.end in row else row for row in tokens.tolist()]
    return [
        Decoded(text, language, sum_ / (len(text) + 1), silent)
        for text, language, sum_, silent in zip(texts, languages.tolist(), total.tolist(), no_speech.tolist())
    ]


def _languages(decoder: TextDecoder, encoded: Tensor, special: SpecialTokens, said: int | None) -> Tensor:
    """Ids (B,): that which was said, English of a model that knows no other, or the likeliest ones."""
    if said is None and special.multilingual:
        return language_probs(decoder, encoded, special).argmax(dim=-1) + special.first_language
    return torch.full((len(encoded),), special.first_language if said is None else said, device=encoded.device)


def _prefix(languages: Tensor, special: SpecialTokens, options: GreedyOptions, context: int) -> tuple[Tensor, int]:
    """The tokens (B, K) before a text, and the place of the start among them."""
    before = [special.start_of_previous, *options.prompt[-(context // 2 - 1) :]] if options.prompt else []
    task = special.translate if options.translate else special.transcribe
    row = [*before, special.start]
    if special.multilingual:
        row += [special.first_language, task]
    if not options.timestamps:
        row.append(special.no_timestamps)
    prefix = torch.tensor(row, device=languages.device).repeat(len(languages), 1)
    if special.multilingual:
        prefix[:, len(before) + 1] = languages
    return prefix, len(before)


class _Rules:
    """What may follow the tokens of a text.

    Args:
        special: ids. options: which rules there are. device: of logits.
    """

    def __init__(self, special: SpecialTokens, options: GreedyOptions, device: torch.device) -> None:
        self.special, self.options = special, options
        self.ids = torch.arange(special.vocab_size, device=device)
        never = [
            *options.suppressed,
            special.translate,
            special.transcribe,
            special.start,
            special.start_of_previous,
            special.start_of_lm,
            special.no_speech,
        ]
        if options.timestamps:
            never.append(special.no_timestamps)
        self.never = torch.zeros_like(self.ids, dtype=torch.bool)
        self.never[never] = True
        self.times, self.text = self.ids >= special.first_timestamp, self.ids < special.end
        self.begin = self.never.clone()
        self.begin[[options.blank, special.end]] = True
        if options.timestamps:
            self.begin |= ~self.times
            if options.latest_begin is not None:
                self.begin |= self.ids > special.first_timestamp + options.latest_begin

    def apply(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, V) after tokens (B, K) -> the same, minus infinity where a token may not follow."""
        if not tokens.shape[1]:
            logits = logits.masked_fill(self.begin, -torch.inf)
        else:
            logits = logits.masked_fill(self.never, -torch.inf)
            if self.options.timestamps:
                logits = logits.masked_fill(self._out_of_order(tokens), -torch.inf)
        return self._times_where_likelier(logits) if self.options.timestamps else logits

    def _out_of_order(self, tokens: Tensor) -> Tensor:
        """(B, K), K >= 1 -> (B, V): timestamps come in pairs, and they grow."""
        first = self.special.first_timestamp
        last = tokens[:, -1:] >= first
        second = tokens[:, -2:-1] >= first if tokens.shape[1] > 1 else torch.ones_like(last)
        alone = last & ~second
        latest = tokens.masked_fill(tokens < first, first - 1).amax(dim=1, keepdim=True)
        # The one that opens a segment may be that which closed the segment before.
        earlier = self.times & (self.ids < latest + (~alone & (latest >= first)).long())
        return (last & second & self.times) | (alone & self.text) | earlier

    def _times_where_likelier(self, logits: Tensor) -> Tensor:
        """Nothing but timestamps where all of them together are likelier than any other token."""
        first = self.special.first_timestamp
        sums = logits[:, first:].logsumexp(dim=-1, keepdim=True)
        only = sums > logits[:, :first].amax(dim=-1, keepdim=True)
        return logits.masked_fill(only & ~self.times, -torch.inf)
