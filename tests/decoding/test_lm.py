import gzip
import math
from pathlib import Path

import pytest
import torch

from couloir.decoding.arpa import arpa_words
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.lm import RnnLm, TransformerLm, lm_rescore
from couloir.decoding.lm_checkpoint import load_lm, save_lm
from couloir.decoding.lm_config import NeuralLmConfig
from couloir.decoding.lm_training import batches, perplexity, train_lm
from couloir.decoding.ngram import NgramLm, estimate_arpa
from couloir.decoding.resources import read_neural_lm
from couloir.errors import UserError
from couloir.text.tokenizer import TokenTable

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
    [
        ("hello\n", "must be an ARPA"),
        (ARPA[: ARPA.index("-0.3\ta b")], "cut off"),
        (ARPA.replace("ngram 2=4", "ngram 2=5"), "cut off"),
    ],
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


def test_tokens_must_all_be_known_and_of_words_some(arpa):
    with pytest.raises(UserError, match="such as `c`;"):
        NgramLm(arpa, PIECES[:3])
    some = NgramLm(arpa, ["<eps>", "c", "d"], partial=True)
    assert some.sequence_scores([[1]]).item() == pytest.approx((-0.3 - 0.9 - 0.7) * LN10, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.arpa", ARPA.replace("c", "\xe9").encode("latin-1")),
        ("x.arpa.gz", gzip.compress(ARPA.encode(), mtime=0)[:-40]),
        ("x.arpa.gz", gzip.compress(ARPA.encode(), mtime=0)[:12] + b"\xff" * 40),
    ],
)
def test_damaged_arpa_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for read in (lambda path: NgramLm(path, PIECES), arpa_words):
        with pytest.raises(UserError, match=f"{name}` must be "):
            read(tmp_path / name)


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


TOKENS = ["<blk>", "<sos/eos>", "<unk>", *"abcdef"]


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
    history = train_lm(lm, TOKENS, sentences, sentences[:6], tmp_path, num_epochs=8, learning_rate=0.02, max_tokens=100)
    assert history[-1] < 1.6 < before
    again = load_lm("rnn", tmp_path / "best-valid-loss.pt", TOKENS)
    assert perplexity(again, sentences[:6]) == pytest.approx(min(history))


@pytest.mark.parametrize("kind", ["rnn", pytest.param("transformer", marks=pytest.mark.slow)])
def test_training_goes_on_as_if_it_had_not_been_stopped(tmp_path, kind):
    sentences = [[3 + (i + j) % 5 for j in range(i % 4 + 1)] for i in range(24)]

    def train(folder, epochs, **options):
        lm = neural(kind)
        torch.manual_seed(epochs)  # what was drawn before must not matter
        options = {"learning_rate": 0.01, "max_tokens": 40, **options}
        return train_lm(lm, TOKENS, sentences, sentences[:5], tmp_path / folder, epochs, **options)

    whole = train("whole", 4)
    assert train("parts", 1) == whole[:1] and train("parts", 4) == whole and train("parts", 4) == whole
    assert sorted(path.name for path in (tmp_path / "parts").iterdir())[-2:] == ["epoch-4.pt", "last.pt"]
    ours, theirs = (torch.load(tmp_path / f"{folder}/epoch-4.pt")["model"] for folder in ("parts", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(UserError, match="--lm-exp-dir.*of another --seed"):
        train("parts", 5, seed=1)
    sentences.append([3])
    with pytest.raises(UserError, match="--lm-exp-dir.*of another --lm-text"):
        train("parts", 5)
    with pytest.raises(UserError, match="other tokens"):
        train_lm(neural(kind), [*TOKENS[:3], *TOKENS[:2:-1]], sentences, sentences, tmp_path / "parts")


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_a_checkpoint_tells_what_it_is(tmp_path, kind):
    lm, path = neural(kind), tmp_path / "epoch-1.pt"
    save_lm(path, lm, TOKENS)
    again = load_lm(kind, path, TOKENS, num_layers=2)
    assert again.sizes == lm.sizes and torch.equal(again.sequence_scores([[3, 5]]), lm.sequence_scores([[3, 5]]))
    other = "transformer" if kind == "rnn" else "rnn"
    for wrong, problem in (
        ((other, path, TOKENS), f"--lm-type.*{kind}.*{other}"),
        ((kind, path, [*TOKENS[:-2], "f", "e"]), "token 7 is `e`, not `f`"),
        ((kind, path, [*TOKENS, "g"]), "the 10 of the tokenizer, but is 9"),
        ((kind, tmp_path / "epoch-99.pt", TOKENS), "does not exist"),
        (("ngram", path, TOKENS), "--lm-type"),
    ):
        with pytest.raises(UserError, match=problem):
            load_lm(*wrong)
    with pytest.raises(UserError, match=f"`--{kind}-lm-num-layers` must be 2, as .*epoch-1.pt has it, but is 3"):
        load_lm(kind, path, TOKENS, num_layers=3)


@pytest.mark.parametrize("tied", [True, False])
def test_icefalls_rnn_lm_needs_no_sizes(tmp_path, tied):
    """Its file holds a path, which is no tensor, and the state of training, perhaps of several processes."""
    lm = RnnLm(9, 12, 12 if tied else 10, 3, tied).eval()
    weights = {f"module.{name}": tensor for name, tensor in lm.state_dict().items()}
    foreign = {"model": weights, "optimizer": {"state": {}}, "exp_dir": Path("rnn_lm/exp"), "sos_id": 1, "cur_epoch": 3}
    torch.save(foreign, tmp_path / "epoch-3.pt")
    again = load_lm("rnn", tmp_path / "epoch-3.pt", TOKENS)
    assert again.sizes == lm.sizes and torch.equal(again.sequence_scores([[3, 5]]), lm.sequence_scores([[3, 5]]))
    with pytest.raises(UserError, match="`--rnn-lm-hidden-dim` must be 1[02]"):
        load_lm("rnn", tmp_path / "epoch-3.pt", TOKENS, hidden_dim=2048)
    with pytest.raises(UserError, match="vocabulary size 10, but is 9"):
        load_lm("rnn", tmp_path / "epoch-3.pt", [*TOKENS, "g"])
    del weights["module.rnn.bias_ih_l1"]
    torch.save(foreign, tmp_path / "epoch-4.pt")
    with pytest.raises(UserError, match="a whole rnn language model"):
        load_lm("rnn", tmp_path / "epoch-4.pt", TOKENS)


def test_files_that_are_no_language_model_are_named(tmp_path):
    save_lm(tmp_path / "cut.pt", neural("rnn"), TOKENS)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:900])
    icefalls = {"input_embedding.weight": torch.zeros(9, 8), "output_linear.weight": torch.zeros(9, 8)}
    icefalls["encoder.encoder_layers.0.norm_final.eps"] = torch.zeros(())
    torch.save({"model": icefalls}, tmp_path / "transformer.pt")
    for name, kind, problem in (
        ("cut.pt", "rnn", "damaged or cut off"),
        ("transformer.pt", "transformer", "icefall's transformer has another architecture"),
        ("transformer.pt", "rnn", "a checkpoint of a rnn language model"),
    ):
        with pytest.raises(UserError, match=problem):
            load_lm(kind, tmp_path / name, TOKENS)


def test_checkpoints_that_say_other_sizes_than_they_have_are_named(tmp_path):
    lm = neural("rnn")
    for change in (
        {"sizes": {**lm.sizes, "hidden_dim": 10**9}},
        {"sizes": {**lm.sizes, "num_layers": 10**9}},
        {"sizes": {**lm.sizes, "embedding_dim": "8"}},
        {"sizes": {}},
        {"sizes": [1]},
        {"kind": None},
        {"pieces": 5},
        {"sizes": {**lm.sizes, "other": 1}},
    ):
        entry = {"kind": "rnn", "sizes": dict(lm.sizes), "pieces": TOKENS, **change}
        torch.save({"model": lm.state_dict(), "lm": entry}, tmp_path / "epoch-1.pt")
        with pytest.raises(UserError, match="must be") as error:
            load_lm("rnn", tmp_path / "epoch-1.pt", TOKENS)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600
    for shape in ((9,), (9, 8, 2), (), (0, 8)):
        weights = {**lm.state_dict(), "input_embedding.weight": torch.zeros(shape)}
        torch.save({"model": weights}, tmp_path / "epoch-1.pt")
        with pytest.raises(UserError, match="epoch-1.pt"):
            load_lm("rnn", tmp_path / "epoch-1.pt", TOKENS)


def test_two_widths_of_one_transformer_are_refused():
    """icefall has two names for what is one width here."""
    assert NeuralLmConfig(transformer_lm_encoder_dim=64).lm_sizes("transformer") == {"embedding_dim": 64}
    with pytest.raises(UserError, match="--transformer-lm-encoder-dim.*--transformer-lm-embedding-dim, 32"):
        NeuralLmConfig(transformer_lm_encoder_dim=64, transformer_lm_embedding_dim=32).lm_sizes("transformer")


def test_batches_hold_every_sentence_once_within_the_limit():
    sentences = [[1] * (i % 7 + 1) for i in range(50)]
    found = batches(sentences, 24, torch.Generator().manual_seed(0))
    assert sorted(i for batch in found for i in batch) == list(range(50))
    assert all(len(batch) * (max(len(sentences[i]) for i in batch) + 1) <= 24 for batch in found)


@pytest.mark.parametrize(("text", "problem"), [([], "empty"), ([[3, 9]], "1...8"), ([[0, 3]], "1...8")])
def test_texts_that_do_not_fit_are_refused(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem):
        train_lm(neural("rnn"), TOKENS, text, [[3]], tmp_path)


def test_a_vocabulary_without_a_sentence_mark_is_refused(tmp_path):
    """Its token 1 would stand for the sentence's begin and end."""
    pieces = ["<blk>", *"abcdefgh"]
    with pytest.raises(UserError, match="token 1 of the tokenizer` must be a sentence mark .*, but is `a`"):
        train_lm(neural("rnn"), pieces, [[3]], [[3]], tmp_path)
    save_lm(tmp_path / "epoch-1.pt", neural("rnn"), pieces)
    with pytest.raises(UserError, match="for a language model, but is `a`"):
        read_neural_lm(NeuralLmConfig(lm_exp_dir=str(tmp_path)), "rnn", TokenTable(pieces))
