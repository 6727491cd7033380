import itertools
import math
from dataclasses import replace

import pytest
import torch
from stub_transducer import StubTransducer, batch

from couloir.decoding.fsa import rescoring
from couloir.decoding.fsa.ctc import (
    ctc_graph_nbest,
    ctc_graph_nbest_oracle,
    ctc_graph_search,
)
from couloir.decoding.fsa.graph import FINAL, Graph, make_graph, trivial_graph
from couloir.decoding.fsa.ragged import expand, group_first_best, group_logsumexp, group_max, keep_best
from couloir.decoding.fsa.rescoring import (
    ATTENTION_SCALES,
    rescore_nbest,
    whole_lattice_rescoring,
    word_scorer,
)
from couloir.decoding.fsa.search import SearchLimits
from couloir.decoding.graph import build_lg, graph_from_fst, make_lexicon, read_lexicon, spell_words
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.ngram import NgramLm, estimate_arpa
from couloir.decoding.transducer.graph_search import fast_beam_search, fast_beam_search_nbest
from couloir.errors import UserError
from couloir.text.tokenizer import TokenTable

PIECES = ["<blk>", "a", "b", "c"]
# "a" begins "ab" and "abc"; "see" and "sea" sound alike; "bc" follows "a" as "abc" does
SPELLINGS = {"a": "a", "ab": "ab", "abc": "abc", "bc": "bc", "sea": "cb", "see": "cb", "cc": "cc"}
TEXT = ["a bc", "ab", "abc cc", "sea a", "see see ab", "a a bc", "cc sea", "bc ab", "a bc", "see cc"]
WIDE = SearchLimits(beam=1e9, max_contexts=10**9, max_states=10**6, allow_partial=False)


def ids(spelling):
    return [PIECES.index(letter) for letter in spelling]


LEXICON = make_lexicon((word, ids(spelling)) for word, spelling in SPELLINGS.items())


@pytest.fixture(scope="module")
def arpas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    for order in (2, 3):
        estimate_arpa([line.split() for line in TEXT], order, folder / f"{order}.arpa")
    return {order: folder / f"{order}.arpa" for order in (2, 3)}


@pytest.fixture(scope="module")
def lg(arpas):
    return build_lg(LEXICON, arpas[3], len(PIECES))


def word_sequences(tokens):
    """All word sequences that are spelt by the tokens."""
    if not tokens:
        yield ()
    for word, spelling in SPELLINGS.items():
        n = len(spelling)
        if list(tokens[:n]) == ids(spelling):
            for rest in word_sequences(tokens[n:]):
                yield (word, *rest)


def number(words):
    return [LEXICON.words.index(word) for word in words]


def ctc_paths(log_probs):
    """(tokens, score) of every path of a (S, V) table."""
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        tokens = tuple(token for token, _ in itertools.groupby(path) if token)
        yield tokens, sum(log_probs[t, token].item() for t, token in enumerate(path))


def best_by_words(log_probs, lm=None, scale=1.0):
    """Word sequence -> score of its best path, with the LM if there is one."""
    best = {}
    for tokens, score in ctc_paths(log_probs):
        best[tokens] = max(best.get(tokens, -math.inf), score)
    found = {}
    for tokens, score in best.items():
        for words in word_sequences(tokens):
            extra = scale * lm.sequence_scores([number(words)]).item() if lm else 0.0
            found[words] = max(found.get(words, -math.inf), score + extra)
    return found


def ctc_batch():
    torch.manual_seed(5)
    return (torch.randn(3, 6, len(PIECES)) * 2).log_softmax(-1), torch.tensor([6, 4, 5])


class TestCtcOverGraphs:
    def test_token_graph_finds_the_best_path(self):
        log_probs, lens = ctc_batch()
        for i, found in enumerate(ctc_graph_search(log_probs, lens, trivial_graph(len(PIECES)))):
            tokens, score = max(ctc_paths(log_probs[i, : lens[i]]), key=lambda pair: pair[1])
            assert (found.tokens, found.words) == (list(tokens), list(tokens))
            assert found.score == pytest.approx(score, abs=1e-4)

    def test_lg_finds_the_best_words(self, lg, arpas):
        log_probs, lens = ctc_batch()
        lm = NgramLm(arpas[3], LEXICON.words)
        for i, found in enumerate(ctc_graph_search(log_probs, lens, lg, WIDE)):
            truth = best_by_words(log_probs[i, : lens[i]], lm)
            words = tuple(LEXICON.words[word] for word in found.words)
            assert found.score == pytest.approx(max(truth.values()), abs=2e-2)  # determinisation quantises to 1e-3
            assert truth[words] == pytest.approx(max(truth.values()), abs=2e-2)
            assert words in set(word_sequences(found.tokens))

    def test_nbest_scores_are_those_of_their_best_paths(self):
        log_probs, lens = ctc_batch()
        for i, hypotheses in enumerate(ctc_graph_nbest(log_probs, lens, trivial_graph(len(PIECES)), num_paths=60)):
            best = {}
            for tokens, score in ctc_paths(log_probs[i, : lens[i]]):
                best[tokens] = max(best.get(tokens, -math.inf), score)
            assert len(hypotheses) > 3
            for hypothesis in hypotheses:
                assert hypothesis.score == pytest.approx(best[tuple(hypothesis.tokens)], abs=1e-4)
            assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)

    def test_oracle_comes_nearest(self):
        log_probs, lens = ctc_batch()
        references = [[1], [2, 3], []]
        for reference, found in zip(
            references, ctc_graph_nbest_oracle(log_probs, lens, trivial_graph(len(PIECES)), references, num_paths=500)
        ):
            assert abs(len(found.words) - len(reference)) <= 1

    def test_whole_lattice_rescoring_equals_enumeration(self, arpas, monkeypatch):
        log_probs, lens = ctc_batch()
        small = build_lg(LEXICON, arpas[2], len(PIECES))
        lm = NgramLm(arpas[3], LEXICON.words)
        found = whole_lattice_rescoring(log_probs, lens, small, lm, [0.5, 1.0], WIDE)
        assert list(found) == ["lm_scale_0.5", "lm_scale_1.0"]
        for scale in (0.5, 1.0):
            for i, hypothesis in enumerate(found[f"lm_scale_{scale}"]):
                truth = best_by_words(log_probs[i, : lens[i]], lm, scale)
                words = tuple(LEXICON.words[word] for word in hypothesis.words)
                assert hypothesis.score == pytest.approx(truth[words], abs=1e-3)  # the path's score is exact
                assert hypothesis.score == pytest.approx(max(truth.values()), abs=1e-3)
        monkeypatch.setattr(rescoring, "WALKED_ARCS", 1)  # each scale by itself
        assert whole_lattice_rescoring(log_probs, lens, small, lm, [0.5, 1.0], WIDE) == found

    def test_rescoring_with_another_model(self):
        log_probs, lens = ctc_batch()
        nbest = ctc_graph_nbest(log_probs, lens, trivial_graph(len(PIECES)), num_paths=60)
        short = lambda found, owner: torch.tensor([-100.0 * len(h.tokens) for h in found])  # noqa: E731
        shortest = rescore_nbest(nbest, [("attention_scale", short, ATTENTION_SCALES)], Hypothesis())
        for hypotheses, chosen in zip(nbest, shortest["attention_scale_5.0"]):
            assert len(chosen.tokens) == min(len(h.tokens) for h in hypotheses)
        assert len(shortest) == 24

    def test_nbest_rescoring_replaces_the_graphs_lm(self, arpas):
        """With the graph's own LM at scale 1 and all paths there, the result is the best of the graph search."""
        log_probs, lens = ctc_batch()
        small, lm = build_lg(LEXICON, arpas[2], len(PIECES)), NgramLm(arpas[3], LEXICON.words)
        nbest = ctc_graph_nbest(log_probs, lens, small, WIDE, num_paths=500, graph_scores=False)
        nothing = lambda found, owner: torch.zeros(len(found))  # noqa: E731
        scorers = [("ngram_lm_scale", word_scorer(lm), [1.0]), ("attention_scale", nothing, [0.1, 2.0])]
        found = rescore_nbest([*nbest, []], scorers, Hypothesis(score=-math.inf))
        assert list(found) == [f"ngram_lm_scale_1.0_attention_scale_{scale}" for scale in (0.1, 2.0)]
        for i, hypothesis in enumerate(found["ngram_lm_scale_1.0_attention_scale_0.1"][:-1]):
            acoustic, fused = best_by_words(log_probs[i, : lens[i]]), best_by_words(log_probs[i, : lens[i]], lm)
            words = tuple(LEXICON.words[word] for word in hypothesis.words)
            assert hypothesis.score == pytest.approx(acoustic[words], abs=1e-3)
            assert fused[words] == pytest.approx(max(fused.values()), abs=1e-3)
        assert all(hypotheses[-1].score == -math.inf for hypotheses in found.values())

    def test_a_batch_gives_what_each_utterance_gives_alone(self, lg):
        log_probs, lens = ctc_batch()
        together = ctc_graph_search(log_probs, lens, lg)
        for i, found in enumerate(together):
            assert ctc_graph_search(log_probs[i : i + 1, : lens[i]], lens[i : i + 1], lg)[0] == found


class TestLgWithATransducer:
    def test_words_spell_the_tokens_and_the_score_holds_the_lm(self, lg, arpas):
        model = StubTransducer(len(PIECES), peak=3.0)
        encoded, lens = batch((24, 15, 20))
        for search in (fast_beam_search, fast_beam_search_nbest):
            for found in search(model, encoded, lens, lg):
                words = [LEXICON.words[word] for word in found.words]
                assert "".join(SPELLINGS[word] for word in words) == "".join(PIECES[t] for t in found.tokens)
                assert len(found.word_frames) == len(words) and found.score < 0

    def test_a_strong_lm_changes_the_result(self, lg):
        model = StubTransducer(len(PIECES), peak=3.0)
        encoded, lens = batch((24, 15, 20))
        weak = fast_beam_search(model, encoded, lens, lg.scaled(0.01))
        strong = fast_beam_search(model, encoded, lens, lg.scaled(3.0))
        assert [h.words for h in weak] != [h.words for h in strong]
        assert sum(len(h.words) for h in strong) < sum(len(h.words) for h in weak)


class TestGraphs:
    def test_lg_is_deterministic_and_backs_off_without_frames(self, lg):
        source = torch.repeat_interleave(lg.splits[1:] - lg.splits[:-1])
        takes = lg.label > 0
        pairs = list(zip(source[takes].tolist(), lg.label[takes].tolist()))
        assert len(pairs) == len(set(pairs))
        assert lg.moves is not None and len(lg.move_next) > lg.num_states
        assert int(lg.label.max()) < len(PIECES) and int(lg.aux.max()) < len(LEXICON.words)

    def test_a_graph_reads_back(self, lg, tmp_path):
        for graph in (lg, replace(lg, pieces=tuple(PIECES), words_digest="12ab")):
            graph.save(tmp_path / "LG.npz")
            again = Graph.load(tmp_path / "LG.npz")
            assert (again.pieces, again.words_digest) == (graph.pieces, graph.words_digest)
            tensors = {name: value for name, value in vars(graph).items() if isinstance(value, torch.Tensor)}
            assert all(torch.equal(getattr(again, name), value) for name, value in tensors.items())

    def test_files_that_are_no_graph_are_refused(self, lg, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            Graph.load(tmp_path / "LG.npz")
        lg.save(tmp_path / "LG.npz")
        whole = (tmp_path / "LG.npz").read_bytes()
        for content in (b"PK nothing", b"", whole[:200], whole[:-30]):
            (tmp_path / "LG.npz").write_bytes(content)
            with pytest.raises(UserError, match="decoding graph"):
                Graph.load(tmp_path / "LG.npz")

    def test_loops_of_epsilons_are_refused_before_their_paths_are_counted(self):
        import kaldifst

        with pytest.raises(UserError, match="loop of epsilons"):
            graph_from_fst(kaldifst.compile("0 0 9 9\n" * 3 + "0 1 1 1\n1\n"), 9, 9)
        steps = "".join(f"{i} {i + 1} 9 9\n" for i in range(70))
        assert graph_from_fst(kaldifst.compile(steps + "70 71 1 1\n71\n"), 9, 9).num_arcs == 2

    def test_a_graph_without_a_path_is_refused(self):
        none = torch.zeros(1, dtype=torch.int64)
        with pytest.raises(UserError, match="no path"):
            make_graph(none, none, none + 1, torch.zeros(1), none[:, None], 2)
        make_graph(none, none + 1, none + FINAL, torch.zeros(1), none[:, None], 2)

    def test_an_lm_of_other_words_is_refused(self, tmp_path):
        estimate_arpa([["x", "y"]], 2, tmp_path / "lm.arpa")
        with pytest.raises(UserError, match="such as `x`, `y`"):
            build_lg(LEXICON, tmp_path / "lm.arpa", len(PIECES))
        estimate_arpa([["x", "y", "a"]], 2, tmp_path / "lm.arpa")
        assert build_lg(LEXICON, tmp_path / "lm.arpa", len(PIECES)).num_arcs

    def test_lexicon_files(self, tmp_path):
        LEXICON.save(tmp_path / "lexicon.txt", PIECES)
        assert read_lexicon(tmp_path / "lexicon.txt", PIECES) == LEXICON
        for text, problem in (("a a\nq q\n", "line 2 .*`q`"), ("a\n", "without tokens"), ("", "empty")):
            (tmp_path / "bad.txt").write_text(text)
            with pytest.raises(UserError, match=problem):
                read_lexicon(tmp_path / "bad.txt", PIECES)
        with pytest.raises(UserError, match="does not exist"):
            read_lexicon(tmp_path / "none.txt", PIECES)
        (tmp_path / "bad.txt").write_text("caf\xe9 a\n", encoding="latin-1")
        with pytest.raises(UserError, match="bad.txt` must be UTF-8"):
            read_lexicon(tmp_path / "bad.txt", PIECES)

    def test_words_spelt_by_a_tokenizer(self):
        lexicon = spell_words(["ab", "xa", ",", "b"], TokenTable(["<blk>", "<sos/eos>", "<unk>", "a", "b"]))
        assert lexicon.words == ["<eps>", "ab", "b"]
        assert lexicon.entries == [(1, [3, 4]), (2, [4])]


class TestRagged:
    def test_expand(self):
        owner, entry = expand(torch.tensor([0, 2, 2, 5]), torch.tensor([2, 0, 1, 2]))
        assert owner.tolist() == [0, 0, 0, 1, 1, 3, 3, 3]
        assert entry.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]

    def test_reductions(self):
        scores, group = torch.tensor([1.0, 3.0, 3.0, -1.0]), torch.tensor([0, 0, 0, 2])
        best = group_max(scores, group, 3)
        assert best.tolist() == [3.0, -math.inf, -1.0]
        total = group_logsumexp(scores, group, 3)
        torch.testing.assert_close(total[0], scores[:3].logsumexp(0))
        assert total[1] == -math.inf
        assert group_first_best(scores, torch.tensor([0, 0, 0, 1]), torch.tensor([3.0, -1.0])).tolist() == [1, 3]

    def test_keep_best_prefers_the_earlier_of_equals(self):
        scores, segment = torch.tensor([1.0, 2.0, 2.0, 2.0, -9.0, 0.0]), torch.tensor([0, 0, 0, 0, 1, 1])
        assert keep_best(scores, segment, 2, 2, 5.0).tolist() == [False, True, True, False, False, True]
        assert keep_best(scores, segment, 2, 9, 5.0).tolist() == [True, True, True, True, False, True]
