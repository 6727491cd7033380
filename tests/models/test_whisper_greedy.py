"""Greedy decoding: against a plain one that computes everything again for every token, one item at a time."""

from dataclasses import replace

import pytest
import torch

from couloir.errors import UserError
from couloir.models.whisper.config import WhisperConfig
from couloir.models.whisper.greedy import GreedyOptions, decode_greedily, language_probs
from couloir.models.whisper.model import build_model
from couloir.models.whisper.special import NON_SPEECH, SpecialTokens, special_tokens

SPECIAL = SpecialTokens(end=12, languages=3, vocab_size=40)
CONFIG = WhisperConfig(
    feature_dim=8,
    audio_context=6,
    encoder_dim=16,
    encoder_num_heads=2,
    num_encoder_layers=1,
    vocab_size=40,
    text_context=24,
    decoder_dim=16,
    decoder_num_heads=2,
    num_decoder_layers=2,
)
FREE = GreedyOptions(suppressed=(3, 7), blank=2, latest_begin=4)


def decoder_of(seed):
    torch.manual_seed(seed)
    model = build_model(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.decoder, torch.randn(5, 6, 16)


def allowed(tokens, options, logits):
    """The ids that may follow, by the rules as they are written down."""
    begin, end = SPECIAL.first_timestamp, SPECIAL.end
    ids = set(range(40)) - set(options.suppressed)
    ids -= {SPECIAL.start, SPECIAL.translate, SPECIAL.transcribe, SPECIAL.start_of_lm, SPECIAL.start_of_previous}
    ids -= {SPECIAL.no_speech}
    if not tokens:
        ids -= {options.blank, end}
    if options.timestamps:
        ids -= {SPECIAL.no_timestamps}
        if not tokens:
            ids = {i for i in ids if begin <= i <= begin + options.latest_begin}
        elif tokens[-1] >= begin:
            if len(tokens) == 1 or tokens[-2] >= begin:
                ids = {i for i in ids if i < begin}
            else:
                ids = {i for i in ids if i >= end}
        times = [t for t in tokens if t >= begin]
        if times:
            closing = tokens[-1] >= begin and len(tokens) > 1 and tokens[-2] < begin
            ids = {i for i in ids if i < begin or i > times[-1] or (closing and i == times[-1])}
        text, late = [i for i in ids if i < begin], [i for i in ids if i >= begin]
        if late and (not text or logits[late].exp().sum().log() > logits[text].max()):
            ids = set(late)
    return sorted(ids)


def plainly(decoder, encoded, options):
    """One item: ids, sum of log-probabilities over their number and the end."""
    language = options.language
    if language is None:
        probs = decoder(torch.tensor([[SPECIAL.start]]), encoded)[0, -1]
        language = SPECIAL.first_language + int(probs[SPECIAL.first_language :][:3].argmax())
    prompt = [SPECIAL.start_of_previous, *options.prompt[-11:]] if options.prompt else []
    prefix = [*prompt, SPECIAL.start, language, SPECIAL.translate if options.translate else SPECIAL.transcribe]
    prefix += [] if options.timestamps else [SPECIAL.no_timestamps]
    at_start = decoder(torch.tensor([prefix]), encoded)[0, len(prompt)].softmax(dim=-1)
    tokens, total = [], 0.0
    while len(tokens) < options.max_tokens and len(prefix) + len(tokens) <= 24:
        logits = decoder(torch.tensor([prefix + tokens]), encoded)[0, -1]
        ids = allowed(tokens, options, logits)
        log_probs = logits[ids].log_softmax(dim=-1)
        total += log_probs.max().item()
        best = ids[int(log_probs.argmax())]
        if best == SPECIAL.end:
            break
        tokens.append(best)
    return tokens, language, total / (len(tokens) + 1), at_start[SPECIAL.no_speech].item()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"timestamps": False},
        {"language": 15, "translate": True},
        {"prompt": (4, 5, 6)},
        {"prompt": tuple(range(12)) * 2, "timestamps": False},
        {"max_tokens": 3},
    ],
)
def test_as_plainly(change):
    options = GreedyOptions(**{**vars(FREE), **change})
    lengths = set()
    for seed in range(4):
        decoder, encoded = decoder_of(seed)
        found = decode_greedily(decoder, encoded, SPECIAL, options)
        for row, item in enumerate(found):
            with torch.no_grad():
                tokens, language, average, no_speech = plainly(decoder, encoded[row : row + 1], options)
            assert (item.tokens, item.language) == (tokens, language)
            assert item.average == pytest.approx(average, abs=1e-4)
            assert item.no_speech == pytest.approx(no_speech, abs=1e-6)
            lengths.add(len(tokens))
    assert len(lengths) > 1 or change.get("max_tokens")


@pytest.mark.parametrize("timestamps", [True, False])
def test_a_model_of_english_alone_gets_no_language_and_no_task(timestamps):
    special, options = replace(SPECIAL, multilingual=False), replace(FREE, timestamps=timestamps)
    decoder, encoded = decoder_of(0)
    seen = []
    decoder.token_embedding.register_forward_hook(lambda _, ids, __: seen.append(ids[0].tolist()))
    found = decode_greedily(decoder, encoded, special, options)
    assert seen[0] == [[SPECIAL.start] + ([] if timestamps else [SPECIAL.no_timestamps])] * 5
    assert {item.language for item in found} == {SPECIAL.first_language}


def test_order_changes_nothing():
    decoder, encoded = decoder_of(9)
    found = decode_greedily(decoder, encoded, SPECIAL, FREE)
    other = decode_greedily(decoder, encoded[[3, 0]], SPECIAL, FREE)
    assert [item.tokens for item in other] == [found[3].tokens, found[0].tokens]


def test_probabilities_of_languages():
    decoder, encoded = decoder_of(0)
    probs = language_probs(decoder, encoded, SPECIAL)
    assert probs.shape == (5, 3)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(5))


@pytest.mark.parametrize(
    ("size", "ids"),
    [
        (51865, [50257, 50258, 50259, 50358, 50359, 50360, 50361, 50362, 50363, 50364]),
        (51866, [50257, 50258, 50259, 50359, 50360, 50361, 50362, 50363, 50364, 50365]),
        (51864, [50256, 50257, 50258, 50357, 50358, 50359, 50360, 50361, 50362, 50363]),
    ],
)
def test_published_ids(size, ids):
    s = special_tokens(size)
    found = [s.end, s.start, s.first_language, s.translate, s.transcribe, s.start_of_lm, s.start_of_previous]
    assert [*found, s.no_speech, s.no_timestamps, s.first_timestamp] == ids
    assert s.first_timestamp + 1500 == size - 1
    assert s.multilingual is (size != 51864)


def test_a_vocabulary_that_is_none():
    with pytest.raises(UserError, match="at least 51864 tokens, but is 50000"):
        special_tokens(50000)
    assert len(NON_SPEECH) == 82
