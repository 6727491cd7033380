from __future__ import annotations

import itertools
import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from couloir.decoding.context_graph import ContextGraph
from couloir.decoding.ctc import ctc_greedy_search, ctc_nbest, ctc_prefix_beam_search
from couloir.decoding.ctc_alignment import ctc_align
from couloir.decoding.ctc_config import FUSIONS, CtcSearchConfig
from couloir.decoding.ctc_methods import CtcSearch
from couloir.decoding.lm import RnnLm
from couloir.decoding.ngram import NgramLm, estimate_arpa
from couloir.errors import UserError
from couloir.models.heads.config import HeadsConfig
from couloir.text.tokenizer import TokenTable


def random_log_probs(seed: int, batch: int, frames: int, vocabulary: int, sharpness: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, frames, vocabulary, generator=generator) * sharpness).log_softmax(2)


def collapse(path, blank=0):
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def brute_force(log_probs: torch.Tensor, blank: int = 0) -> dict[tuple[int, ...], float]:
    """Log-probability of every token string, by listing every path of (S, V) log-probabilities."""
    frames, vocabulary = log_probs.shape
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    rows = log_probs.double().tolist()
    for path in itertools.product(range(vocabulary), repeat=frames):
        sums[collapse(path, blank)] += math.exp(sum(rows[t][k] for t, k in enumerate(path)))
    return {string: math.log(p) for string, p in sums.items()}


def best_path(log_probs: torch.Tensor, labels: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
    rows = log_probs.double().tolist()
    paths = itertools.product(range(log_probs.shape[1]), repeat=len(rows))
    return max((sum(rows[t][k] for t, k in enumerate(p)), p) for p in paths if collapse(p) == labels)


@pytest.mark.parametrize("blank", [0, 2])
def test_greedy_is_the_collapsed_best_path(blank):
    log_probs = random_log_probs(0, 40, 9, 4)
    lens = torch.randint(0, 10, (40,), generator=torch.Generator().manual_seed(1))
    for b, found in enumerate(ctc_greedy_search(log_probs, lens, blank)):
        rows = log_probs[b, : lens[b]]
        path = rows.argmax(1).tolist()
        runs = [(k, list(group)) for k, group in itertools.groupby(range(len(path)), key=lambda t: path[t])]
        runs = [(k, group) for k, group in runs if k != blank]
        assert found.tokens == [k for k, _ in runs]
        assert found.starts == [group[0] for _, group in runs]
        assert found.score == pytest.approx(rows.max(1).values.sum().item(), abs=1e-5)
        assert found.confidences == pytest.approx([max(rows[t, k].exp().item() for t in g) for k, g in runs])


@pytest.mark.parametrize("vocabulary", [2, 3, 4])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_wide_beam_equals_the_sum_over_all_paths(vocabulary, sharpness):
    frames = {2: 7, 3: 6, 4: 5}[vocabulary]
    log_probs = random_log_probs(vocabulary, 3, frames, vocabulary, sharpness)
    wide = sum((vocabulary - 1) ** n for n in range(frames + 1)) + 3
    for rows, found in zip(log_probs, ctc_nbest(log_probs, torch.full((3,), frames), beam=wide)):
        expected = brute_force(rows)
        assert {tuple(h.tokens): pytest.approx(h.score, abs=1e-5) for h in found} == expected
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_best_string_may_differ_from_the_best_path():
    probabilities = torch.tensor([[0.6, 0.4], [0.6, 0.4]])  # the best path is blank, blank: 0.36; "1" has 0.64
    log_probs = probabilities.log()[None]
    assert ctc_greedy_search(log_probs, torch.tensor([2]))[0].tokens == []
    found = ctc_prefix_beam_search(log_probs, torch.tensor([2]), beam=2)[0]
    assert found.tokens == [1] and found.score == pytest.approx(math.log(0.64))


def reference_beam_search(rows, beam, blank=0):
    """The textbook search with a dictionary of prefixes, one utterance at a time."""
    beams = {(): (0.0, -math.inf)}
    plus = lambda a, b: float(np.logaddexp(a, b))  # noqa: E731
    for row in rows.double().tolist():
        new = defaultdict(lambda: (-math.inf, -math.inf))
        for prefix, (pb, pt) in beams.items():
            for k, p in enumerate(row):
                if k == blank:
                    new[prefix] = (plus(new[prefix][0], plus(pb, pt) + p), new[prefix][1])
                    continue
                from_ = pb if prefix and prefix[-1] == k else plus(pb, pt)
                longer = (*prefix, k)
                new[longer] = (new[longer][0], plus(new[longer][1], from_ + p))
                if prefix and prefix[-1] == k:
                    new[prefix] = (new[prefix][0], plus(new[prefix][1], pt + p))
        beams = dict(sorted(new.items(), key=lambda item: -plus(*item[1]))[:beam])
    return {prefix: plus(*p) for prefix, p in beams.items()}


@pytest.mark.parametrize("beam", [1, 2, 4, 8])
def test_narrow_beam_equals_the_textbook_search(beam):
    log_probs = random_log_probs(beam, 6, 25, 7, 2.0)
    lens = torch.tensor([25, 17, 1, 0, 24, 9])
    for b, found in enumerate(ctc_nbest(log_probs, lens, beam)):
        expected = reference_beam_search(log_probs[b, : lens[b]], beam)
        assert {tuple(h.tokens): pytest.approx(h.score, abs=1e-9) for h in found} == expected


def test_padding_and_batch_do_not_change_a_result():
    log_probs, lens = random_log_probs(9, 5, 30, 11), torch.tensor([30, 12, 0, 1, 21])
    for search in (ctc_greedy_search, ctc_prefix_beam_search):
        together = search(log_probs, lens)
        for b, n in enumerate(lens.tolist()):
            assert search(log_probs[b : b + 1, :n], lens[b : b + 1])[0] == together[b]
        spoiled = log_probs.masked_fill(torch.arange(30)[None, :, None] >= lens[:, None, None], 7.0)
        assert search(spoiled, lens) == together


def test_impossible_tokens_and_no_utterances():
    log_probs = torch.full((1, 4, 5), -math.inf)
    log_probs[0, :, 0] = 0.0
    for search in (ctc_greedy_search, ctc_prefix_beam_search):
        assert search(log_probs, torch.tensor([4]))[0].tokens == []
        assert search(log_probs, torch.tensor([4]))[0].score == 0.0
        assert search(torch.zeros(0, 4, 5), torch.zeros(0, dtype=torch.int64)) == []
    assert len(ctc_nbest(log_probs, torch.tensor([4]), beam=6)[0]) == 1


def test_alignment_is_the_best_path_of_the_labels():
    log_probs = random_log_probs(3, 6, 6, 3)
    labels = [(1, 2), (1, 1), (), (2,), (1, 2, 1), (2, 2, 2)]
    lens = torch.tensor([6, 5, 6, 1, 4, 6])
    for b, found in enumerate(ctc_align(log_probs, lens, labels)):
        score, path = best_path(log_probs[b, : lens[b]], labels[b])
        assert found.score == pytest.approx(score, abs=1e-5)
        runs = [list(g) for k, g in itertools.groupby(range(len(path)), key=lambda t: path[t]) if k]
        assert (found.starts, found.ends) == ([r[0] for r in runs], [r[-1] + 1 for r in runs])
        strongest = [max(log_probs[b, t, path[t]].exp().item() for t in run) for run in runs]
        assert found.confidences == pytest.approx(strongest)


def test_alignment_without_room():
    found = ctc_align(random_log_probs(0, 2, 3, 3), torch.tensor([3, 1]), [(1, 1, 1), (1,)])
    assert found[0].score == -math.inf and found[0].starts == []
    assert found[1].starts == [0] and found[1].ends == [1]


def test_beam_hypotheses_carry_frames_and_confidences():
    log_probs = torch.full((1, 8, 3), math.log(0.01))
    for t, token in enumerate([0, 1, 1, 0, 0, 2, 0, 1]):
        log_probs[0, t, token] = math.log(0.98)
    found = ctc_prefix_beam_search(log_probs, torch.tensor([8]))[0]
    assert (found.tokens, found.starts) == ([1, 2, 1], [1, 5, 7])
    assert found.confidences == pytest.approx([0.98] * 3)
    assert ctc_greedy_search(log_probs, torch.tensor([8]))[0].starts == found.starts


class TestShallowFusion:
    """Scores of fused strings against all paths listed, plus the scorers' own sequence scores."""

    def scorers(self):
        torch.manual_seed(3)
        return [(0.6, RnnLm(4, 8, 8, 1).eval()), (1.0, ContextGraph([[1, 2], [3]], 0.7))]

    def bonus(self, scorers, tokens):
        total = 0.0
        for scale, scorer in scorers:
            state = scorer.start(1, torch.device("cpu"))
            for token in tokens:
                gain, state = scorer.step(state, torch.tensor([token]))
                total += scale * gain.item()
            total += scale * scorer.final(state).item()
        return total

    def test_a_wide_beam_equals_enumeration(self):
        log_probs, lens, scorers = random_log_probs(7, 2, 4, 4), torch.tensor([4, 3]), self.scorers()
        for b, found in enumerate(ctc_nbest(log_probs, lens, 200, scorers=scorers)):
            truth = brute_force(log_probs[b, : lens[b]])
            fused = {tokens: score + self.bonus(scorers, tokens) for tokens, score in truth.items()}
            assert {tuple(h.tokens) for h in found} == set(fused)
            for hypothesis in found:
                assert hypothesis.score == pytest.approx(fused[tuple(hypothesis.tokens)], abs=1e-5)
            assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)

    def test_a_batch_gives_what_each_utterance_gives_alone(self):
        log_probs, lens, scorers = random_log_probs(8, 3, 12, 4), torch.tensor([12, 5, 9]), self.scorers()
        together = ctc_prefix_beam_search(log_probs, lens, 3, scorers=scorers)
        for b, found in enumerate(together):
            alone = ctc_prefix_beam_search(log_probs[b : b + 1, : lens[b]], lens[b : b + 1], 3, scorers=scorers)[0]
            assert (alone.tokens, alone.starts) == (found.tokens, found.starts)
            assert alone.score == pytest.approx(found.score, abs=1e-5)

    def test_an_ngram_brings_its_strings_in(self, tmp_path):
        estimate_arpa([["a", "b"]] * 20 + [["a", "b", "a", "b"]], 2, tmp_path / "2gram.arpa")
        lm = NgramLm(tmp_path / "2gram.arpa", ["<blk>", "a", "b", "c"])
        log_probs, lens = random_log_probs(9, 4, 20, 4), torch.full((4,), 20)
        plain, fused = (ctc_prefix_beam_search(log_probs, lens, 8, scorers=s) for s in ((), [(2.0, lm)]))
        score = lambda found: sum(lm.sequence_scores([h.tokens]).item() / len(h.tokens) for h in found)  # noqa: E731
        assert score(fused) > score(plain) and [h.tokens for h in fused] != [h.tokens for h in plain]


def test_fusion_and_attention_check_the_tokens(tmp_path):
    """Numbers in a compiled n-gram need their table; an attention decoder needs a sentence mark."""
    heads = HeadsConfig(use_transducer=False, use_ctc=True, use_attention_decoder=True, vocab_size=4)
    model = SimpleNamespace(heads_config=heads, attention_decoder=SimpleNamespace(sos_eos_id=1))
    (tmp_path / "2gram.fst.txt").write_text("0 1 2 2 0.5\n1 0.2\n")
    TokenTable(["<blk>", "a", "c", "b"]).save_tokens(tmp_path / "tokens.txt")
    fusion = {"decoding_method": FUSIONS[0], "lodr_lm_scale": 0.1, "lodr_ngram": str(tmp_path / "2gram.fst.txt")}
    rescoring = {"decoding_method": "attention-decoder-rescoring-no-ngram"}
    for settings, problem in ((fusion, "token 2 is `c`, not `b`"), (rescoring, "for an attention decoder, .*`a`")):
        with pytest.raises(UserError, match=problem):
            CtcSearch(CtcSearchConfig(**settings), model, TokenTable(["<blk>", "a", "b", "c"]), torch.device("cpu"))
    CtcSearch(CtcSearchConfig(**rescoring), model, TokenTable(["<blk>", "<s>", "b", "c"]), torch.device("cpu"))


@pytest.mark.parametrize("method", ["ctc-greedy-search", "ctc-prefix-beam-search"])
def test_blank_penalty_is_taken_from_blank_in_every_frame(method):
    """Against the same search on log-probabilities whose blank was lowered by hand; file names tell them apart."""
    logits = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(3)) + torch.tensor([3.0, 0, 0, 0, 0])
    lens = torch.tensor([30, 21])
    model = SimpleNamespace(
        heads_config=HeadsConfig(use_transducer=False, use_ctc=True, vocab_size=5),
        ctc_log_probs=lambda frames: frames.log_softmax(-1),
    )
    found = {}
    for penalty in (0.0, 2.0):
        config = CtcSearchConfig(decoding_method=method, blank_penalty=penalty)
        search = CtcSearch(config, model, SimpleNamespace(vocab_size=5), torch.device("cpu"))
        (found[penalty],) = search(logits, lens).values()
        lowered = (logits - torch.tensor([penalty, 0, 0, 0, 0])).log_softmax(-1)
        by_hand = (ctc_greedy_search if "greedy" in method else ctc_prefix_beam_search)(lowered, lens)
        assert [h.tokens for h in found[penalty]] == [h.tokens for h in by_hand]
    assert sum(len(h.tokens) for h in found[2.0]) > sum(len(h.tokens) for h in found[0.0])
    assert config.suffix().endswith("_blank-penalty-2.0")
