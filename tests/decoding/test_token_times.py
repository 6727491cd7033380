"""Where tokens and words stand: every search against a forced alignment by trying all paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from stub_transducer import StubTransducer, batch

from couloir.decoding.ctc import ctc_greedy_search, ctc_nbest, ctc_prefix_beam_search
from couloir.decoding.ctc_alignment import ctc_align
from couloir.decoding.fsa.ctc import ctc_graph_nbest, ctc_graph_nbest_oracle, ctc_graph_search
from couloir.decoding.fsa.graph import trivial_graph
from couloir.decoding.fsa.rescoring import whole_lattice_rescoring
from couloir.decoding.fsa.search import SearchLimits
from couloir.decoding.graph import build_lg, make_lexicon
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.ngram import NgramLm, estimate_arpa
from couloir.decoding.transducer.beam import modified_beam_search
from couloir.decoding.transducer.classic_beam import beam_search
from couloir.decoding.transducer.graph_search import (
    fast_beam_search,
    fast_beam_search_nbest,
    fast_beam_search_nbest_oracle,
)
from couloir.decoding.transducer.greedy import greedy_search
from couloir.decoding.words import GraphWords, divided
from couloir.text.tokenizer import TokenTable

PIECES = ["<blk>", "a", "b", "c"]
SPELLINGS = {"a": "a", "ab": "ab", "abc": "abc", "bc": "bc", "sea": "cb", "see": "cb", "aa": "aa"}
TEXT = ["a bc", "ab", "abc aa", "sea a", "see see ab", "a a bc", "aa sea", "bc ab", "a bc", "see aa"]
LEXICON = make_lexicon((word, [PIECES.index(letter) for letter in spelt]) for word, spelt in SPELLINGS.items())
WIDE = SearchLimits(beam=1e9, max_contexts=10**9, max_states=10**6)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    estimate_arpa([line.split() for line in TEXT], 2, folder / "2.arpa")
    LEXICON.save(folder / "lexicon.txt", PIECES)
    return folder


@pytest.fixture(scope="module")
def lg(lm):
    return build_lg(LEXICON, lm / "2.arpa", len(PIECES))


def ctc_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(3, 7, len(PIECES), generator=generator) * 2).log_softmax(-1), torch.tensor([7, 4, 6])


def best_alignment(log_probs, tokens):
    """Starts, ends and confidences of the likeliest of all label paths (S, V) that spell the tokens."""
    best, found = -math.inf, None
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        runs = [(token, list(group)) for token, group in itertools.groupby(range(len(path)), key=path.__getitem__)]
        if [token for token, _ in runs if token] != list(tokens):
            continue
        score = sum(log_probs[t, token].item() for t, token in enumerate(path))
        if score > best:
            best, found = score, [(token, group) for token, group in runs if token]
    starts, ends = [group[0] for _, group in found], [group[-1] + 1 for _, group in found]
    return starts, ends, [max(log_probs[t, token].exp().item() for t in group) for token, group in found]


def check_ctc(found, log_probs):
    starts, ends, confidences = best_alignment(log_probs, found.tokens)
    assert (found.starts, found.ends) == (starts, ends)
    assert found.confidences == pytest.approx(confidences, abs=1e-5)


CTC = {
    "greedy": lambda *args, lg, lm: ctc_greedy_search(*args),
    "prefix": lambda *args, lg, lm: ctc_prefix_beam_search(*args, beam=8),
    "best path": lambda *args, lg, lm: ctc_graph_search(*args, trivial_graph(len(PIECES)), WIDE),
    "1best": lambda *args, lg, lm: ctc_graph_search(*args, lg, WIDE),
    "oracle": lambda *args, lg, lm: ctc_graph_nbest_oracle(*args, lg, [[1], [2], [3, 1]], WIDE, num_paths=20),
    "lattice": lambda *args, lg, lm: whole_lattice_rescoring(*args, lg, NgramLm(lm, LEXICON.words), [0.7])[
        "lm_scale_0.7"
    ],
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CTC)
def test_ctc_tokens_stand_where_the_best_path_has_them(name, seed, lg, lm):
    log_probs, lens = ctc_batch(seed)
    results = CTC[name](log_probs, lens, lg=lg, lm=lm / "2.arpa")
    assert any(found.tokens for found in results)
    for i, found in enumerate(results):
        check_ctc(found, log_probs[i, : lens[i]])


def test_so_do_all_of_an_n_best_list(lg):
    log_probs, lens = ctc_batch(3)
    for lists in (ctc_graph_nbest(log_probs, lens, lg, WIDE, num_paths=20), ctc_nbest(log_probs, lens, 5)):
        assert sum(map(len, lists)) > 6
        for i, hypotheses in enumerate(lists):
            for found in hypotheses:
                check_ctc(found, log_probs[i, : lens[i]])


def test_an_alignment_is_a_hypothesis_and_one_that_does_not_fit_has_no_tokens():
    log_probs, lens = ctc_batch(4)
    found = ctc_align(log_probs, lens, [[1, 2], [1, 1, 1], [3]])
    check_ctc(found[0], log_probs[0, :7])
    assert found[0].tokens == [1, 2] and found[1] == Hypothesis(score=-math.inf)


def test_a_token_again_needs_a_blank_that_is_not_its_own():
    probs = torch.tensor([[0.1, 0.9], [0.45, 0.55], [0.6, 0.4], [0.1, 0.9], [0.2, 0.8]]).log()[None]
    (found,) = ctc_graph_search(probs, torch.tensor([5]), trivial_graph(2), WIDE)
    assert (found.tokens, found.starts, found.ends) == ([1, 1], [0, 3], [2, 5])
    assert found.confidences == pytest.approx([0.9, 0.9])


MODEL = StubTransducer(vocab_size=4, seed=2)
TRANSDUCER = {
    "greedy": (lambda *args, lg: greedy_search(*args), 0),
    "modified": (lambda *args, lg: modified_beam_search(*args, beam=4), 0),
    "fast": (lambda *args, lg: fast_beam_search(*args, trivial_graph(4), WIDE), 1),
    "fast, dense": (lambda *args, lg: fast_beam_search(*args, trivial_graph(4), SearchLimits(1e9, 32, 64)), 1),
    "fast, LG": (lambda *args, lg: fast_beam_search(*args, lg, WIDE), 1),
    "fast, n-best": (lambda *args, lg: fast_beam_search_nbest(*args, trivial_graph(4), WIDE, 20), 1),
    "fast, oracle": (lambda *args, lg: fast_beam_search_nbest_oracle(*args, lg, [[1], [2, 3]], WIDE, 20), 1),
}
BEST_PATHS = ("fast", "fast, dense", "fast, LG", "fast, n-best", "fast, oracle")


def placements(encoded, tokens, at_the_end):
    """(score, starts, confidences) of every way to emit the tokens, at most one a frame.

    On graphs, as in k2, none in the last frame, and the first history is blanks.
    """
    size = MODEL.decoder.context_size
    rows = []
    for n in range(len(tokens) + 1):
        context = torch.tensor([([0 if at_the_end else -1] * (size - 1) + [0] + list(tokens[:n]))[-size:]])
        logits = MODEL.joiner(encoded, MODEL.decoder(context, need_pad=False)[:, 0].expand(len(encoded), -1))
        rows.append(logits.log_softmax(-1).tolist())
    for starts in itertools.combinations(range(len(encoded) - at_the_end), len(tokens)):
        score, n, confidences = 0.0, 0, []
        for t in range(len(encoded) - at_the_end):
            emits = n < len(starts) and starts[n] == t
            value = rows[n][t][tokens[n] if emits else 0]
            score += value
            confidences += [math.exp(value)] if emits else []
            n += emits
        yield score, list(starts), confidences


@torch.no_grad()
@pytest.mark.parametrize("name", TRANSDUCER)
def test_transducer_tokens_stand_where_an_alignment_has_them(name, lg):
    """On graphs it is the best alignment; a beam sums over alignments, and keeps one that it has gone."""
    search, at_the_end = TRANSDUCER[name]
    encoded, lens = batch((9, 7), seed=11)
    encoded = encoded * 2
    results = search(MODEL, encoded, lens, lg=lg)
    assert sum(len(found.tokens) for found in results) > 1
    for i, found in enumerate(results):
        assert found.ends == [start + 1 for start in found.starts]
        ways = list(placements(encoded[i, : lens[i]], found.tokens, at_the_end))
        mine = next(way for way in ways if way[1] == found.starts)
        assert found.confidences == pytest.approx(mine[2], abs=1e-4)
        if name in BEST_PATHS:
            assert mine[0] == pytest.approx(max(way[0] for way in ways), abs=1e-4)


def test_beam_search_says_where_its_tokens_are():
    encoded, lens = batch((9, 5))
    for found, frames in zip(beam_search(MODEL, encoded, lens), lens.tolist()):
        assert found.ends == [start + 1 for start in found.starts] and found.starts == sorted(found.starts)
        assert len(found.tokens) == len(found.starts) == len(found.confidences) and max(found.ends, default=0) <= frames


@pytest.mark.parametrize("source", ["lexicon.txt", "the tokenizer"])
def test_words_of_a_graph_divide_its_tokens(lg, lm, tmp_path, source):
    tokenizer = TokenTable(PIECES)
    words = GraphWords(LEXICON.words, lm if source == "lexicon.txt" else tmp_path, tokenizer)
    log_probs, lens = ctc_batch(6)
    seen = set()
    for found in itertools.chain(*ctc_graph_nbest(log_probs, lens, lg, WIDE, num_paths=40)):
        texts, lengths = words.texts(found), words.lengths(found)
        assert len(texts) == len(lengths) and sum(lengths) == len(found.tokens)
        at = 0
        for text, length in zip(texts, lengths):
            spelt = "".join(PIECES[i] for i in found.tokens[at : at + length])
            if source == "lexicon.txt":
                assert spelt == SPELLINGS[text]
            seen.add(text)
            at += length
    assert len(seen) > 4


@pytest.mark.parametrize(
    ("tokens", "forms", "lengths"),
    [
        ([1, 2, 3], [{(1,)}, {(2, 3)}], [1, 2]),
        ([1, 2, 3], [{(1,), (1, 2)}, {(3,)}], [2, 1]),
        ([1, 1, 1], [{(1,), (1, 1)}, {(1, 1)}], [1, 2]),
        ([1, 2], [{(1,)}], []),
        ([], [], []),
        ([1], [], []),
    ],
)
def test_division_by_hand(tokens, forms, lengths):
    assert divided(tokens, forms) == lengths


def test_a_path_that_ends_inside_a_word_is_divided_at_the_labels(lm):
    words = GraphWords(LEXICON.words, lm, TokenTable(PIECES))
    number = LEXICON.words.index
    partial = Hypothesis([1, 2, 3, 1, 2], [0, 2, 4, 6, 8], words=[number("abc"), number("aa")], word_frames=[4, 6])
    assert words.lengths(partial) == [3, 2]
