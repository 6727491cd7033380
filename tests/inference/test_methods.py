"""Every method of decode.py and ctc_decode.py in recognition, with times, on both runtimes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from tiny_models import PIECES, tiny_config, write_run

from couloir.decoding.ctc_config import CTC_METHODS, CtcSearchConfig
from couloir.decoding.ctc_methods import CtcSearch
from couloir.decoding.graph import build_lg, spell_words
from couloir.decoding.lm import RnnLm
from couloir.decoding.lm_checkpoint import save_lm
from couloir.decoding.ngram import estimate_arpa
from couloir.decoding.resources import write_word_graph
from couloir.decoding.transducer.config import METHODS, TransducerSearchConfig
from couloir.decoding.transducer.methods import TransducerSearch
from couloir.errors import UserError
from couloir.inference.file_run import made_with
from couloir.inference.methods import search_config
from couloir.inference.pretrained import open_model
from couloir.inference.recognizer import Recognizer
from couloir.inference.restriction import restrict
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.model import build_model
from couloir.text.tokenizer import TokenTable

TOKENIZER = TokenTable(PIECES)
SENTENCES = ["tae iok", "sen mir", "iok iok tae", "lo na", "t a e i o k s m n r l", "s s i i a a k i t͡s ʂ", "na sen"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lang(tmp_path_factory):
    """LG of words of two and three phones, n-grams, hotwords, and an untrained LM."""
    folder = tmp_path_factory.mktemp("lang")
    words = [line.split() for line in SENTENCES]
    lexicon = spell_words([word for line in words for word in line], TOKENIZER)
    estimate_arpa(words, 2, folder / "words.2gram.arpa")
    estimate_arpa([[PIECES[i] for i in TOKENIZER.encode(line)] for line in SENTENCES], 2, folder / "2gram.arpa")
    lexicon.save(folder / "lexicon.txt", PIECES)
    graph = build_lg(lexicon, folder / "words.2gram.arpa", len(PIECES))
    write_word_graph(folder, graph, lexicon.words, PIECES)
    (folder / "hotwords.txt").write_text("tae\nsen :3.5\n")
    torch.manual_seed(1)
    save_lm(folder / "epoch-1.pt", RnnLm(len(PIECES), 8, 8, 1), PIECES)
    return folder


@pytest.fixture(scope="module")
def attentive(tmp_path_factory):
    """A run with a CTC head and an attention decoder."""
    torch.manual_seed(3)
    heads = HeadsConfig(
        use_transducer=False, use_ctc=True, use_attention_decoder=True, vocab_size=len(PIECES),
        attention_decoder_dim=16, attention_decoder_num_layers=1, attention_decoder_attention_dim=16,
        attention_decoder_num_heads=2, attention_decoder_feedforward_dim=16,
    )  # fmt: skip
    model = build_model(tiny_config(), heads).eval()
    with torch.no_grad():
        model.ctc_output[1].weight.mul_(30.0)
        model.ctc_output[1].bias[0] += 2.0
        model.ctc_output[1].bias[1:3] -= 1000.0
    return write_run(tmp_path_factory.mktemp("attentive") / "run", model)


def settings_of(method, lang):
    """What each method needs, by the names of the flags."""
    ctc = method in CTC_METHODS
    settings = {"decoding_method": method}
    on_words = method.endswith("_LG") or "lattice" in method or "nbest" in method
    if on_words or "1best" in method or "with-ngram" in method or "LODR" in method:
        settings |= {"lang_dir": str(lang)} | ({"lm_dir": str(lang)} if ctc else {})
    if ("_lm_" in method or "LODR" in method) and not ctc:
        settings |= {"lm_exp_dir": str(lang)}
    if method == "modified_beam_search_LODR":
        settings |= {"ngram_lm_scale": -0.1}
    if "nbest" in method or "attention-decoder-rescoring" in method:
        settings |= {"num_paths": 20}
    if "fusion" in method and ctc:
        settings |= {"nnlm_scale": 0.2, "lm_exp_dir": str(lang)}
    if method == "beam_search":
        settings |= {"beam_size": 2, "blank_penalty": -4.0}
    if method in ("modified_beam_search", "fast_beam_search"):
        settings |= {"context_file": str(lang / "hotwords.txt"), "context_score": 1.5}
    return settings


@pytest.fixture(scope="module")
def opened(models, attentive):
    """(kind, runtime) -> its backend, opened once."""
    made = {}

    def get(kind, runtime="run"):
        if (kind, runtime) not in made:
            folder = attentive if kind == "attentive" else models(kind) / runtime
            made[kind, runtime] = open_model(folder, runtime="onnx" if runtime == "onnx" else "torch")
        return made[kind, runtime]

    return get


def recogniser(backend, settings, **options):
    return Recognizer(backend, search=search_config(backend.kind, settings, "it"), **options)


def directly(backend, settings, waves):
    """Result key -> the hypothesis of each wave, of the search itself on what the model makes of it alone."""
    kind = backend.kind
    if kind == "ctc":
        search = CtcSearch(CtcSearchConfig(**settings), backend.model, TOKENIZER, CPU)
    else:
        search = TransducerSearch(TransducerSearchConfig(**settings), backend.model, TOKENIZER, CPU)
    found = {}
    for wave in waves:
        frames = torch.from_numpy(backend.encode_hidden([wave])[0])[None]
        with torch.no_grad():
            for key, (best,) in search(frames, torch.tensor([frames.shape[1]])).items():
                found.setdefault(key, []).append((best, search.text_words(best)))
    return found


def waves_of(speech):
    from couloir.audio import load_audio

    return [load_audio(path)[: int(16000 * seconds)] for path, seconds in zip(speech, (1.2, 0.8))]


OFFLINE = [m for m in (*CTC_METHODS, *METHODS) if not m.endswith("oracle")]


@pytest.mark.parametrize("method", OFFLINE)
def test_a_recogniser_finds_what_the_search_of_the_decoding_program_finds(method, opened, speech, lang):
    settings, waves = settings_of(method, lang), waves_of(speech)
    ctc = method in CTC_METHODS
    backend = opened("attentive" if "attention" in method else "ctc" if ctc else "transducer")
    recognizer, expected = recogniser(backend, settings), directly(backend, settings, waves)
    key = recognizer.method.key if recognizer.method else next(iter(expected))
    assert recognizer.method or method in ("ctc-greedy-search", "greedy_search")
    for transcript, (best, words) in zip(recognizer.transcribe(waves), expected[key]):
        assert [t.symbol for t in transcript.tokens] == recognizer.backend.vocabulary.surfaces(best.tokens)
        assert transcript.text == (
            recognizer.backend.vocabulary.text(best.tokens) if words is None else " ".join(words)
        )
        shift = transcript.frame_shift
        for token, start, end, confidence in zip(transcript.tokens, best.starts, best.ends, best.confidences):
            assert token.confidence == pytest.approx(confidence, abs=1e-3)
            # A token reaches into the silence around it, by no more than 0.1 s, and may share a frame.
            assert start * shift - 0.2 <= token.start <= token.end <= end * shift + 0.035 + 0.2
        if words is not None:
            assert [word.symbol for word in transcript.words()] == words
            assert [word.start for word in transcript.words()] == sorted(word.start for word in transcript.words())
            assert words == [] or transcript.words()[-1].end == transcript.tokens[-1].end


@pytest.mark.parametrize(
    "method",
    [
        "ctc-prefix-beam-search", "1best", "whole-lattice-rescoring", "ctc-prefix-beam-search-shallow-fusion",
        "modified_beam_search", "beam_search", "fast_beam_search", "fast_beam_search_LG",
        "modified_beam_search_lm_rescore",
    ],
)  # fmt: skip
def test_exported_files_give_the_same_with_torch_beside_them(method, opened, speech, lang):
    kind = "ctc" if method in CTC_METHODS else "transducer"
    waves = waves_of(speech)[:1]
    run, onnx = (recogniser(opened(kind, runtime), settings_of(method, lang)) for runtime in ("run", "onnx"))
    (one,), (other,) = run.transcribe(waves), onnx.transcribe(waves)
    assert one.text == other.text and len(one.tokens) > 3
    assert [(t.symbol, t.start, t.end) for t in one.tokens] == [(t.symbol, t.start, t.end) for t in other.tokens]
    assert [w.symbol for w in one.words()] == [w.symbol for w in other.words()]


@pytest.mark.parametrize(("kind", "method"), [("ctc", "ctc-greedy-search"), ("transducer", "greedy_search")])
def test_the_greedy_method_by_its_name_is_the_default(kind, method, opened, speech):
    plain, named = (recogniser(opened(kind), flags) for flags in ({}, {"decoding_method": method}))
    assert plain.transcribe(waves_of(speech)) == named.transcribe(waves_of(speech))
    assert named.method is None and made_with(plain, None) == made_with(named, None)


def test_windows_hold_whatever_a_method_needs(opened, speech):
    flags, wave = {"decoding_method": "modified_beam_search", "beam_size": 3}, np.concatenate(waves_of(speech))
    (whole,) = recogniser(opened("transducer"), flags).transcribe([wave])
    (parts,) = recogniser(opened("transducer"), flags, window_s=1.2, overlap_s=0.5).transcribe([wave])
    assert whole.duration == parts.duration == 2.0 and parts.text and parts.tokens[-1].end <= 2.0
    (twice,) = recogniser(opened("ctc"), {"decoding_method": "ctc-prefix-beam-search"}, passes=2).transcribe([wave])
    assert twice.text


def test_an_attention_decoder_takes_what_fits_into_a_window_and_names_what_does_not(opened, speech):
    flags = {"decoding_method": "ctc-prefix-beam-search-attention-decoder-rescoring"}
    recognizer = recogniser(opened("attentive"), flags, window_s=1.0, overlap_s=0.5)
    results = dict(recognizer.results(waves_of(speech)))
    assert str(results[0]) == "item 0 is longer than 1 s, over which an attention decoder does not rescore; cut it"
    assert results[1].text
    with pytest.raises(UserError, match=r"^`--passes` must be 1 with --decoding-method"):
        recogniser(opened("attentive"), flags, passes=2)
    with pytest.raises(UserError, match=r"^`log_probs` must be False with an attention decoder"):
        recognizer.transcribe(waves_of(speech)[1:], log_probs=True)


def test_of_rescoring_one_result_is_taken_and_can_be_asked_for(opened, lang):
    settings = settings_of("nbest-rescoring", lang)
    assert recogniser(opened("ctc"), settings).method.key == "lm_scale_0.5"
    asked = recogniser(opened("ctc"), settings, result="lm_scale_1.7")
    assert asked.method.key == "lm_scale_1.7" and asked.choices["result"] == "lm_scale_1.7"
    rescored = settings_of("modified_beam_search_lm_rescore_LODR", lang) | {"lm_scale": 0.08}
    assert recogniser(opened("transducer"), rescored).method.key.endswith("nnlm_scale_0.08_lodr_scale_0.10")
    with pytest.raises(UserError, match=r"--result.*lm_scale_9.*lm_scale"):
        recogniser(opened("ctc"), settings, result="lm_scale_9")


def test_hotwords_are_found(opened, speech, tmp_path):
    (tmp_path / "hot").write_text("tt\n", encoding="utf-8")
    flags = {"decoding_method": "modified_beam_search", "beam_size": 40}
    hot = {"context_file": tmp_path / "hot", "context_score": 60.0}
    (plain,), (biased,) = (
        recogniser(opened("transducer"), flags | more).transcribe(waves_of(speech)[:1]) for more in ({}, hot)
    )
    assert biased.text.count("tt") > plain.text.count("tt")
    assert recogniser(opened("transducer"), flags | hot).method.files == [tmp_path / "hot"]


@pytest.mark.parametrize(
    "method", ["ctc-prefix-beam-search", "ctc-decoding", "modified_beam_search", "fast_beam_search"]
)
def test_an_inventory_of_single_pieces_restricts_every_method(method, opened, speech, tmp_path):
    backend = opened("ctc" if method in CTC_METHODS else "transducer")
    single, joined = (restrict(backend.vocabulary, phones) for phones in ("aeitks", ["a", "tʰ"]))
    recognizer = recogniser(backend, {"decoding_method": method}, restriction=single)
    (found,) = recognizer.transcribe(waves_of(speech)[:1])
    assert found.text and set(found.text) <= set("aeitks")
    with pytest.raises(UserError, match=f"^`--inventory` must be .*{method}"):
        recogniser(backend, {"decoding_method": method}, restriction=joined)


@pytest.mark.parametrize(
    ("kind", "flags", "words"),
    [
        ("ctc", {"decoding_method": "modified_beam_search"}, "modified_beam_search"),
        ("transducer", {"decoding_method": "1best"}, "1best"),
        ("ctc", {"decoding_method": "best"}, "--decoding-method"),
        ("ctc", {"temperature": 2}, "`--temperature` has no meaning for a ctc model"),
        ("transducer", {"hlg_scale": 2}, "`--hlg-scale` has no meaning for a transducer model"),
        ("ctc", {"decoding_method": "nbest-oracle"}, "needs the reference transcripts"),
        ("transducer", {"decoding_method": "fast_beam_search_nbest_oracle"}, "needs the reference transcripts"),
        ("ctc", {"decoding_method": "attention-decoder-rescoring-no-ngram"}, "needs a"),
        ("ctc", {"result": "x"}, "--result"),
        ("transducer", {"context_file": "no", "decoding_method": "modified_beam_search"}, "context file no"),
        ("transducer", {"lang_dir": "nowhere", "decoding_method": "fast_beam_search_LG"}, "nowhere"),
        ("transducer", {"ilme_scale": 0.2}, "--ilme-scale"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("runtime", ["run", "onnx"])
def test_what_cannot_be_done_is_said_in_one_line(kind, flags, words, runtime, models):
    with pytest.raises(UserError) as caught:
        Recognizer.from_pretrained(models(kind) / runtime, **flags)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_with_both_heads_is_taken_by_its_method(tmp_path, speech):
    torch.manual_seed(0)
    heads = HeadsConfig(use_transducer=True, use_ctc=True, vocab_size=len(PIECES), decoder_dim=16, joiner_dim=24)
    run = write_run(tmp_path / "run", build_model(tiny_config(), heads).eval())
    kinds = {
        method: Recognizer.from_pretrained(run, decoding_method=method).backend.kind
        for method in ("ctc-decoding", "beam_search")
    }
    assert kinds == {"ctc-decoding": "ctc", "beam_search": "transducer"}
    assert Recognizer.from_pretrained(run).backend.kind == "ctc"


def test_without_torch_a_method_says_so(models, monkeypatch):
    import builtins

    real = builtins.__import__

    def no_torch(name, *args):
        if name.split(".")[0] == "torch" or "decoding.ctc_methods" in name:
            raise ImportError(name)
        return real(name, *args)

    backend = open_model(models() / "onnx", runtime="onnx")
    monkeypatch.setattr(builtins, "__import__", no_torch)
    with pytest.raises(UserError, match="^`--decoding-method ctc-decoding` needs torch; pip install torch"):
        Recognizer(backend, search=CtcSearchConfig(decoding_method="ctc-decoding"))


def test_transcribe_writes_times_of_phones_and_of_words(models, lang, speech, tmp_path, call):
    run = models() / "run"
    flags = ("--decoding-method", "1best", "--lang-dir", lang, "--hlg-scale", "1")
    for name in ("x.ctm", "x.jsonl", "grids"):
        done = call("couloir", "transcribe", run, speech[0], *flags, "--output", tmp_path / name)
        assert done.returncode == 0, done.err
    values = json.loads((tmp_path / "x.jsonl").read_text())
    rows = [line.split() for line in (tmp_path / "x.ctm").read_text().splitlines()]
    assert [row[4] for row in rows] == values["text"].split() and len(rows) > 2
    assert set(values["text"].split()) <= set(" ".join(SENTENCES).split())
    assert [row[2] for row in rows] == [f"{word['start']:.3f}" for word in values["words"]]
    grid = next((tmp_path / "grids").iterdir()).read_text()
    assert re.findall('name = "(.*)"', grid) == ["words", "phones"]
    assert re.findall('text = "(.+)"', grid.split("phones")[0]) == values["text"].split()
    again = call("couloir", "transcribe", run, speech[0], "--output", tmp_path / "x.ctm")
    assert again.returncode == 2 and "decoding_method" in again.err, "it was begun with another method"


def test_help_shows_the_main_flags_of_searching(call):
    shown = call("couloir", "transcribe", "--help").out
    assert "--decoding-method" in shown and "--context-file" in shown and "--transformer-lm-nhead" not in shown
