import gzip
import math

import pytest
import torch

from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.lm import RnnLm, TransformerLm, check_lm_vocabulary, lm_rescore
from couloir.decoding.lm_training import batches, load_lm, perplexity, train_lm
from couloir.decoding.ngram import NgramLm, estimate_arpa
from couloir.errors import UserError

PIECES = ["<blk>", "a", "b", "c"]
ARPA = """
\\data\\
ngram 1=5
ngram 2=4

\\1-grams:
-99\t<s>\t-0.3
-0.7\t</s>
-0.5\ta\t-0.2
-0.6\tb\t-0.1
-0.9\tc

\\2-grams:
-0.2\t<s> a
-0.3\ta b
-0.4\tb </s>
-0.5\tb a

\\end\\
"""
LN10 = math.log(10)


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "2gram.arpa"
    path.write_text(ARPA)
    return path


@pytest.mark.parametrize(
    ("tokens", "log10"),
    [
        ([1, 2], -0.2 - 0.3 - 0.4),  # all by bigrams
        ([2], -0.3 - 0.6 - 0.4),  # backs off at the begin
        ([1, 3], -0.2 - 0.2 - 0.9 + 0.0 - 0.7),  # backs off twice
        ([1, 1], -0.2 - 0.2 - 0.5 - 0.2 - 0.7),
        ([], -0.3 - 0.7),
    ],
)
def test_ngram_scores_by_hand(arpa, tokens, log10):
    lm = NgramLm(arpa, PIECES)
    assert lm.sequence_scores([tokens]).item() == pytest.approx(log10 * LN10, abs=1e-5)
    together = lm.sequence_scores([[3, 3, 3, 3], tokens, []])
    assert together[1].item() == pytest.approx(log10 * LN10, abs=1e-5)


def test_ngram_reads_gzip_and_lower_orders(arpa, tmp_path):
    packed = tmp_path / "2gram.arpa.gz"
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    assert NgramLm(packed, PIECES).sequence_scores([[1, 2]]) == NgramLm(arpa, PIECES).sequence_scores([[1, 2]])
    unigram = NgramLm(arpa, PIECES, max_order=1).sequence_scores([[1, 2]]).item()
    assert unigram == pytest.approx((-0.5 - 0.6 - 0.7) * LN10, abs=1e-5)


def test_tokens_that_the_ngram_lacks_cost_its_rarest_unigram(arpa):
    lm = NgramLm(arpa, [*PIECES, "d"])
    state, _ = lm.start(1, torch.device("cpu")), None
    score, _ = lm.step(state, torch.tensor([4]))
    assert score.item() == pytest.approx((-0.3 - 0.9) * LN10, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("hello\n", "must be an ARPA"), (ARPA[:120], "cut off"), (ARPA.replace("ngram 2=4", "ngram 2=5"), "cut off")],
)
def test_what_is_no_arpa_file_is_refused(tmp_path, text, problem):
    (tmp_path / "x.arpa").write_text(text)
    with pytest.raises(UserError, match=problem):
        NgramLm(tmp_path / "x.arpa", PIECES)


def test_an_lm_of_other_units_is_refused(arpa, tmp_path):
    with pytest.raises(UserError, match="such as `a`"):
        NgramLm(arpa, ["<blk>", "x", "y"])
    with pytest.raises(UserError, match="does not exist"):
        NgramLm(tmp_path / "none.arpa", PIECES)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_estimated_models_sum_to_one_after_any_history(tmp_path, order):
    sentences = ["abcabc", "aab", "", "cb", "abccba", "bbb"]
    estimate_arpa([list(s) for s in sentences], order, tmp_path / "lm.arpa")
    lm = NgramLm(tmp_path / "lm.arpa", PIECES)
    for history in ([], [1], [1, 2], [3, 3, 3], [2, 1]):
        state = lm.start(1, torch.device("cpu"))
        for token in history:
            _, state = lm.step(state, torch.tensor([token]))
        scores, _ = lm.step((state[0].expand(3),), torch.arange(1, 4))
        total = scores.exp().sum() + lm.end_scores(state[0]).exp().sum()
        assert total.item() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(UserError, match="empty"):
        estimate_arpa([], order, tmp_path / "lm.arpa")


def neural(kind):
    torch.manual_seed(1)
    return (RnnLm(9, 8, 8, 2) if kind == "rnn" else TransformerLm(9, 8, 16, 2, 2)).eval()


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_steps_add_up_to_the_sequence_score(kind):
    lm, sequences = neural(kind), [[3, 5, 2], [4, 4, 8]]
    state, total = lm.start(2, torch.device("cpu")), torch.zeros(2)
    for tokens in zip(*sequences):
        score, state = lm.step(state, torch.tensor(tokens))
        total = total + score
    total = total + state[-1][:, lm.sos_eos_id]
    torch.testing.assert_close(lm.sequence_scores(sequences), total.double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_sequence_scores_do_not_depend_on_the_batch(kind):
    lm, sequences = neural(kind), [[3, 5, 2], [4], [], [1, 2, 3, 4, 5, 6]]
    alone = torch.cat([lm.sequence_scores([sequence]) for sequence in sequences])
    torch.testing.assert_close(lm.sequence_scores(sequences), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(lm.sequence_scores(sequences, batch_size=3), alone, atol=1e-5, rtol=0)


def test_rescoring_takes_the_best_total(arpa):
    lm, ngram = neural("rnn"), NgramLm(arpa, PIECES)
    nbest = [[Hypothesis([1, 2], score=-3.0), Hypothesis([3], score=-2.5)], [Hypothesis([2], score=-1.0)]]
    scores, internal = lm.sequence_scores([[1, 2], [3]]), ngram.sequence_scores([[1, 2], [3]])
    searched = torch.tensor([-3.0, -2.5])
    found = lm_rescore(nbest, lm)
    assert len(found) == 40 and list(found)[0] == "nnlm_scale_0.10" and list(found)[-1] == "nnlm_scale_0.49"
    both = lm_rescore(nbest, lm, scales=(0.04, 5.0), lodr=ngram, lodr_scales=(0.05, 3.0))
    assert list(both) == [f"nnlm_scale_{a}_lodr_scale_{b}" for a in ("0.04", "5.00") for b in ("0.05", "3.00")]
    for scale in (0.10, 0.49):
        best = int((searched + scale * scores).argmax())
        assert found[f"nnlm_scale_{scale:.2f}"][0] is nbest[0][best]
    for a in (0.04, 5.0):
        for b in (0.05, 3.0):
            best = int((searched / a + scores - b * internal).argmax())
            assert both[f"nnlm_scale_{a:.2f}_lodr_scale_{b:.2f}"][0] is nbest[0][best]


def test_training_learns_a_text_and_its_checkpoint_reads_back(tmp_path):
    torch.manual_seed(0)
    sentences = [[3, 4, 5, 6] * (1 + i % 2) for i in range(60)]
    lm = RnnLm(9, 16, 16, 1)
    before = perplexity(lm, sentences)
    history = train_lm(lm, sentences, sentences[:6], tmp_path, num_epochs=8, learning_rate=0.02, max_tokens=100)
    assert history[-1] < 1.6 < before
    again = load_lm("rnn", tmp_path / "best-valid-loss.pt", 9, embedding_dim=16, hidden_dim=16, num_layers=1)
    assert perplexity(again, sentences[:6]) == pytest.approx(min(history))
    with pytest.raises(UserError, match="vocabulary size 10"):
        load_lm("rnn", tmp_path / "epoch-1.pt", 10, embedding_dim=16, hidden_dim=16, num_layers=1)
    with pytest.raises(UserError, match="sizes of"):
        load_lm("rnn", tmp_path / "epoch-1.pt", 9, embedding_dim=8, hidden_dim=8, num_layers=1)
    with pytest.raises(UserError, match="does not exist"):
        load_lm("rnn", tmp_path / "epoch-99.pt", 9)


def test_batches_hold_every_sentence_once_within_the_limit():
    sentences = [[1] * (i % 7 + 1) for i in range(50)]
    found = batches(sentences, 24, torch.Generator().manual_seed(0))
    assert sorted(i for batch in found for i in batch) == list(range(50))
    assert all(len(batch) * (max(len(sentences[i]) for i in batch) + 1) <= 24 for batch in found)


@pytest.mark.parametrize(("text", "problem"), [([], "empty"), ([[3, 9]], "1...8"), ([[0, 3]], "1...8")])
def test_texts_that_do_not_fit_are_refused(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem):
        train_lm(neural("rnn"), text, [[3]], tmp_path)


def test_an_lm_of_another_vocabulary_is_refused():
    with pytest.raises(UserError, match="--lm-vocab-size"):
        check_lm_vocabulary(neural("rnn"), 500)
