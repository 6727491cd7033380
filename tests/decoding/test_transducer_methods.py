import pytest
import torch
from stub_transducer import StubTransducer, batch

from couloir.decoding.graph import build_lg, make_lexicon
from couloir.decoding.lm import RnnLm
from couloir.decoding.ngram import NgramLm, estimate_arpa
from couloir.decoding.resources import open_token_ngram
from couloir.decoding.transducer.config import METHODS, TransducerSearchConfig
from couloir.decoding.transducer.frames import FrameScorer, Scoring
from couloir.decoding.transducer.greedy import greedy_search
from couloir.decoding.transducer.methods import TransducerSearch
from couloir.errors import UserError
from couloir.text.tokenizer import TokenTable

LETTERS = "abcdefghi"
TOKENIZER = TokenTable(["<blk>", "<sos/eos>", "<unk>", *LETTERS])
MODEL = StubTransducer(TOKENIZER.vocab_size)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lang(tmp_path_factory):
    """A folder with LG, words, a token n-gram and an RNN LM."""
    folder = tmp_path_factory.mktemp("lang")
    words = ["a", "bad", "cab", "fed", "hi", "ice", "g", "e"]
    lexicon = make_lexicon((word, TOKENIZER.encode(word)) for word in words)
    estimate_arpa([[w] + words[:i] for i, w in enumerate(words)], 2, folder / "words.arpa")
    estimate_arpa([list(word) for word in words] + [list(LETTERS)], 2, folder / "2gram.arpa")
    build_lg(lexicon, folder / "words.arpa", TOKENIZER.vocab_size).save(folder / "LG.npz")
    (folder / "words.txt").write_text("".join(f"{word} {i}\n" for i, word in enumerate(lexicon.words)))
    torch.save({"model": RnnLm(TOKENIZER.vocab_size, 8, 8, 1).state_dict()}, folder / "epoch-7.pt")
    return folder


def search(lang, method, **settings):
    if method == "modified_beam_search_LODR":
        settings.setdefault("ngram_lm_scale", -0.1)
    config = TransducerSearchConfig(decoding_method=method, lang_dir=str(lang), lm_exp_dir=str(lang), **settings)
    return TransducerSearch(config, MODEL, TOKENIZER, CPU)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_decodes_a_batch(lang, method):
    encoded, lens = batch((12, 7))
    decoder = search(lang, method)
    results = decoder(encoded, lens, references=[TOKENIZER.decode([3, 4]), TOKENIZER.decode([5])])
    assert len(results) == {"modified_beam_search_lm_rescore": 40, "modified_beam_search_lm_rescore_LODR": 532}.get(
        method, 1
    )
    for key, found in results.items():
        assert key.startswith(method) and len(found) == 2
        for hypothesis, frames in zip(found, lens):
            assert len(hypothesis.tokens) == len(hypothesis.starts) and max(hypothesis.starts, default=0) < frames
            words = decoder.text_words(hypothesis)
            assert (words is None) == (not method.endswith("_LG"))
            if words is not None:
                assert "".join(words) == TOKENIZER.decode(hypothesis.tokens)


@pytest.mark.parametrize(
    "method",
    ["modified_beam_search", "fast_beam_search", "fast_beam_search_LG", "fast_beam_search_nbest",
     "fast_beam_search_nbest_LG"],
)  # fmt: skip
def test_a_context_file_changes_the_result(lang, tmp_path, method):
    encoded, lens = batch((30,))
    (tmp_path / "hot.txt").write_text("hi :30\n")
    plain = search(lang, method)(encoded, lens)
    hot = search(lang, method, context_file=str(tmp_path / "hot.txt"))(encoded, lens)
    (before,), (after,) = plain.values(), hot.values()
    assert TOKENIZER.decode(after[0].tokens).count("hi") > TOKENIZER.decode(before[0].tokens).count("hi")


@pytest.mark.parametrize("method", ["modified_beam_search", "modified_beam_search_LODR", "fast_beam_search"])
def test_overlapping_hotwords_count_once_unless_all_are_asked_for(lang, tmp_path, method):
    (tmp_path / "hot.txt").write_text("hi\nhig\nig\n")
    hotwords = [
        search(lang, method, context_file=str(tmp_path / "hot.txt"), **more).hotwords
        for more in ({}, {"strict_hotwords": True})
    ]
    assert [graph.strict for graph in hotwords] == [False, True]
    config = {"decoding_method": method, "context_file": "f", "lm_exp_dir": "x", "ngram_lm_scale": -0.1}
    keys = {TransducerSearchConfig(**config, strict_hotwords=strict).result_key() for strict in (False, True)}
    assert len(keys) == 2


def test_penalty_and_temperature_by_hand():
    encoded, lens = batch((6, 3))
    scoring = Scoring(blank_penalty=0.7, temperature=1.5)
    frames = FrameScorer(MODEL, encoded, lens, scoring)
    predicted = frames.predictions(frames.start(1))
    found = frames.log_probs(2, torch.tensor([0]), predicted)[0]

    logits = MODEL.joiner(MODEL.joiner.encoder_proj(encoded[0, 2])[None], predicted, project_input=False)[0]
    torch.testing.assert_close(found, ((logits - 0.7 * torch.eye(len(logits))[0]) / 1.5).log_softmax(-1))


@pytest.mark.parametrize("method", ["greedy_search", "fast_beam_search_LG"])
def test_no_internal_lm_is_taken_off(method):
    assert TransducerSearchConfig(decoding_method=method, ilme_scale=0.0)
    with pytest.raises(UserError, match="^`--ilme-scale` must be 0, but is 0.2"):
        TransducerSearchConfig(decoding_method=method, ilme_scale=0.2)


def test_a_bias_is_added_to_every_logit():
    encoded, lens = batch((12, 7))
    bias = torch.zeros(TOKENIZER.vocab_size)
    bias[5:] = -torch.inf
    found = greedy_search(MODEL, encoded, lens, scoring=Scoring(bias=bias))
    assert {token for h in found for token in h.tokens} <= {1, 2, 3, 4}
    shifted = greedy_search(MODEL, encoded, lens, scoring=Scoring(bias=-3.0 * torch.eye(TOKENIZER.vocab_size)[0]))
    penalised = greedy_search(MODEL, encoded, lens, scoring=Scoring(blank_penalty=3.0))
    assert [h.tokens for h in shifted] == [h.tokens for h in penalised]


def test_names_of_results_are_icefalls():
    key = lambda method, **kw: TransducerSearchConfig(decoding_method=method, lm_exp_dir="x", **kw).result_key()  # noqa: E731
    suffix = lambda method, **kw: TransducerSearchConfig(decoding_method=method, lm_exp_dir="x", **kw).suffix(2)  # noqa: E731
    limits = "_beam-20.0_max-contexts-8_max-states-64"
    assert key("greedy_search") == "greedy_search"
    assert key("fast_beam_search") == "fast_beam_search" + limits
    assert key("modified_beam_search", context_file="f") == "modified_beam_search_beam-size-4_context-score-2.0"
    assert key("fast_beam_search", context_file="f") == f"fast_beam_search{limits}_context-score-2.0"
    assert suffix("greedy_search") == "_context-2_max-sym-per-frame-1"
    assert suffix("fast_beam_search_nbest_LG") == limits + "_nbest-scale-0.5_num-paths-200_ngram-lm-scale-0.01"
    assert suffix("modified_beam_search") == "__modified_beam_search__beam-size-4"
    assert suffix("modified_beam_search", temperature=2.0) == "__modified_beam_search__beam-size-4_temperature-2.0"
    assert suffix("modified_beam_search_LODR", ngram_lm_scale=-0.16) == (
        "__modified_beam_search_LODR__beam-size-4_rnn-lm-scale-0.3_LODR-2gram-scale--0.16"
    )
    # Rescoring tries scales of its own, and they are in the results' keys.
    for method in ("modified_beam_search_lm_rescore", "modified_beam_search_lm_rescore_LODR"):
        assert suffix(method, use_shallow_fusion=False) == f"__{method}__beam-size-4"


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"decoding_method": "modified_beam_search_lm_rescore"}, "--lm-exp-dir"),
        ({"decoding_method": "greedy_search", "context_file": "hot.txt"}, "--context-file"),
        ({"decoding_method": "fast_beam_search", "context_file": "hot.txt", "context_score": -1.0}, "--context-score"),
        ({"nbest_scale": 0.0}, "--nbest-scale"),
        ({"decoding_method": "fast_beam_search_nbest_oracle", "context_file": "hot.txt"}, "--context-file"),
        ({"decoding_method": "greedy_search", "use_shallow_fusion": True}, "--use-shallow-fusion"),
        ({"decoding_method": "modified_beam_search_LODR", "lm_exp_dir": "x"}, "--ngram-lm-scale"),
        (
            {
                "decoding_method": "modified_beam_search_lm_shallow_fusion",
                "lm_exp_dir": "x",
                "use_shallow_fusion": False,
            },
            "`--use-shallow-fusion` must be True",
        ),
        ({"beam_size": 0}, "--beam-size"),
    ],
)
def test_contradictions_name_the_flag(settings, flag):
    with pytest.raises(UserError, match=flag):
        TransducerSearchConfig(**settings)


def test_what_does_not_fit_the_model_is_refused(lang, tmp_path):
    config = TransducerSearchConfig()
    with pytest.raises(UserError, match="as many as the model's 12"):
        TransducerSearch(config, MODEL, TokenTable(["<blk>", "a"]), CPU)
    with pytest.raises(UserError, match="LG.npz does not exist"):
        search(tmp_path, "fast_beam_search_LG")
    with pytest.raises(UserError, match="epoch-3.pt does not exist"):
        search(lang, "modified_beam_search_lm_rescore", lm_epoch=3)


def test_an_ngram_in_kaldilms_text_form_equals_its_arpa(lang, tmp_path):
    import kaldilm

    table = tmp_path / "tokens.txt"
    table.write_text("".join(f"{piece} {i}\n" for i, piece in enumerate([*TOKENIZER.pieces, "#0"])))
    text = kaldilm.arpa2fst(str(lang / "2gram.arpa"), "", disambig_symbol="#0", read_symbol_table=str(table))
    path = tmp_path / "2gram.fst.txt"
    path.write_text(text)
    sequences, digits = [[3, 4, 5], [11, 10], []], {"atol": 1e-4, "rtol": 0}  # kaldilm prints six
    arpa = NgramLm(lang / "2gram.arpa", TOKENIZER.pieces).sequence_scores(sequences)
    torch.testing.assert_close(open_token_ngram(path, TOKENIZER, 500).sequence_scores(sequences), arpa, **digits)
    TOKENIZER.save_tokens(table)  # which does not tell #0
    torch.testing.assert_close(open_token_ngram(path, TOKENIZER, 12).sequence_scores(sequences), arpa, **digits)
    for backoff, problem in ((500, "labels of .*but is 12"), (11, "--backoff-id` must be at least .* 12, but is 11")):
        with pytest.raises(UserError, match=problem):
            open_token_ngram(path, TOKENIZER, backoff)
    with pytest.raises(UserError, match="token 3 is `a`, not `i`"):
        open_token_ngram(path, TokenTable([*TOKENIZER.pieces[:3], *LETTERS[::-1]]), 12)
    table.unlink()
    with pytest.raises(UserError, match="2gram.fst.txt` must be beside the tokens.txt"):
        open_token_ngram(path, TOKENIZER, 12)
