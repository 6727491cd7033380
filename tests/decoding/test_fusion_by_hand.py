"""Language models in the searches: every score is the search's own plus n-gram scores that are added up by hand."""

import itertools
import math

import pytest
import torch
from stub_transducer import StubTransducer, batch

from couloir.decoding.ctc import ctc_nbest
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.lm import lm_rescore
from couloir.decoding.ngram import NgramLm
from couloir.decoding.transducer.beam import modified_beam_search, modified_beam_search_nbest

PIECES, ALL = ["<blk>", "a", "b", "c"], 170
UNIGRAMS = {"a": (-0.4, -0.2), "b": (-0.6, -0.3), "c": (-0.9, 0.0), "</s>": (-0.5, 0.0), "<s>": (-99.0, -0.1)}
BIGRAMS = {("<s>", "a"): -0.2, ("a", "b"): -0.1, ("b", "</s>"): -0.7, ("c", "c"): -1.5}
OTHER = {"a": (-0.3, 0.0), "b": (-0.8, 0.0), "c": (-0.7, 0.0), "</s>": (-0.6, 0.0), "<s>": (-99.0, 0.0)}


def arpa(folder, unigrams, bigrams):
    lines = [
        "\\data\\",
        f"ngram 1={len(unigrams)}",
        *([f"ngram 2={len(bigrams)}"] if bigrams else []),
        "",
        "\\1-grams:",
    ]
    lines += [f"{p}\t{word}\t{back}" if bigrams else f"{p}\t{word}" for word, (p, back) in unigrams.items()]
    lines += ["", "\\2-grams:", *(f"{p}\t{' '.join(pair)}" for pair, p in bigrams.items())] if bigrams else []
    path = folder / f"{len(bigrams)}.arpa"
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return path


def by_hand(text, unigrams, bigrams, end):
    """Natural log-probability of tokens; a pair that is not there backs off, one that is there never does."""
    total, before = 0.0, "<s>"
    for word in [PIECES[t] for t in text] + ["</s>"] * end:
        pair = (before, word)
        total += bigrams[pair] if pair in bigrams else unigrams[before][1] + unigrams[word][0]
        before = word
    return total * math.log(10)


LM = lambda text, end=False: by_hand(text, UNIGRAMS, BIGRAMS, end)  # noqa: E731
LODR = lambda text, end=False: by_hand(text, OTHER, {}, end)  # noqa: E731


@pytest.fixture
def models(tmp_path):
    return NgramLm(arpa(tmp_path, UNIGRAMS, BIGRAMS), PIECES), NgramLm(arpa(tmp_path, OTHER, {}), PIECES)


def summed(scores):
    return torch.tensor(scores, dtype=torch.float64).logsumexp(0).item()


@pytest.mark.parametrize(
    ("text", "log10"), [([1, 2], -0.2 - 0.1 - 0.7), ([2, 1], -0.7 - 0.7 - 0.7), ([3, 3], -1.0 - 1.5 - 0.5), ([], -0.6)]
)
def test_the_scores_that_the_others_are_made_of(models, text, log10):
    """The pair `c c` costs -1.5 though backing off would cost -0.9: icefall's search would take that."""
    assert LM(text, True) == pytest.approx(log10 * math.log(10))
    assert models[0].sequence_scores([text]).item() == pytest.approx(log10 * math.log(10), abs=1e-5)


@pytest.mark.parametrize("lodr_scale", [0.0, -0.26])
def test_lodr_in_modified_beam_search(models, lodr_scale):
    """Text -> log-probability over alignments + 0.52 lm + lodr_scale lodr, without the sentence's end."""
    model, (encoded, lens) = StubTransducer(len(PIECES), peak=1.5, seed=8), batch((3, 2), seed=9)
    scorers = [(0.52, models[0]), (lodr_scale, models[1])]
    everything = modified_beam_search_nbest(model, encoded, lens, ALL, scorers)
    best = modified_beam_search(model, encoded, lens, ALL, scorers)
    for i, n in enumerate(lens.tolist()):
        paths = [((), 0.0)]
        for frame in encoded[i, :n]:
            longer = []
            for text, score in paths:
                context = torch.tensor([([-1, 0, *text])[-2:]])
                with torch.no_grad():
                    logits = model.joiner(frame[None], model.decoder(context, need_pad=False)[:, 0])[0]
                rows = logits.log_softmax(-1).tolist()
                longer += [(text + (k,) * (k > 0), score + row) for k, row in enumerate(rows)]
            paths = longer
        texts = {text for text, _ in paths}
        expected = {
            text: summed([s for other, s in paths if other == text]) + 0.52 * LM(text) + lodr_scale * LODR(text)
            for text in texts
        }
        assert {tuple(h.tokens): h.score for h in everything[i]} == pytest.approx(expected, abs=1e-4)
        assert tuple(best[i].tokens) == max(texts, key=lambda text: expected[text] / (len(text) + 2))


@pytest.mark.parametrize("lodr_scale", [0.0, -0.2])
def test_ctc_prefix_search_with_language_models(models, lodr_scale):
    log_probs = torch.randn(1, 4, len(PIECES), generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    paths = {}
    for path in itertools.product(range(len(PIECES)), repeat=4):
        text = tuple(token for token, _ in itertools.groupby(path) if token)
        paths.setdefault(text, []).append(sum(log_probs[0, t, k].item() for t, k in enumerate(path)))
    expected = {text: summed(s) + 0.4 * LM(text) + lodr_scale * LODR(text) for text, s in paths.items()}
    scorers = [(0.4, models[0]), (lodr_scale, models[1])]
    found = ctc_nbest(log_probs, torch.tensor([4]), ALL, scorers=scorers)[0]
    assert {tuple(h.tokens): h.score for h in found} == pytest.approx(expected, abs=1e-4)
    assert tuple(found[0].tokens) == max(expected, key=expected.__getitem__)


@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("lodr_scale", [0.05, 0.95])
def test_rescoring_counts_the_sentences_end(models, scale, lodr_scale):
    """score + scale lm; with LODR score / scale + lm - lodr_scale lodr."""
    texts = [[1, 2], [2, 1], [3], []]
    nbest = [[Hypothesis(text, score=-3.0 + 0.4 * i) for i, text in enumerate(texts)]]
    alone = lm_rescore(nbest, models[0], scales=(scale,))
    both = lm_rescore(nbest, models[0], (scale,), models[1], (lodr_scale,))
    key = f"nnlm_scale_{scale:.2f}"
    plain = [h.score + scale * LM(h.tokens, True) for h in nbest[0]]
    lodr = [h.score / scale + LM(h.tokens, True) - lodr_scale * LODR(h.tokens, True) for h in nbest[0]]
    assert alone[key][0] is nbest[0][plain.index(max(plain))]
    assert both[f"{key}_lodr_scale_{lodr_scale:.2f}"][0] is nbest[0][lodr.index(max(lodr))]
