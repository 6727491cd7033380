"""One symbol per frame, as in ZIPA's published numbers, or up to three, as its client for ONNX files has it."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import PIECES, tiny_model, write_onnx, write_run

from couloir.audio import load_audio
from couloir.decoding.hypothesis import Hypothesis
from couloir.errors import UserError
from couloir.features.config import FbankConfig
from couloir.features.kaldi import fbank_numpy
from couloir.inference.file_run import made_with
from couloir.inference.formats import textgrid
from couloir.inference.recognizer import Recognizer
from couloir.inference.transcript import timed_tokens
from couloir.inference.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def eager(tmp_path_factory):
    """A transducer that is often sure of several symbols in a frame: run directory and ONNX files."""
    folder = tmp_path_factory.mktemp("eager")
    model = tiny_model("transducer", seed=3)
    model.joiner.output_linear.bias[0] += 1.0
    model.decoder.embedding.weight.mul_(3.0)  # so that what came before matters, the first history too
    write_run(folder / "run", model)
    write_onnx(folder / "onnx", model)
    return folder


def as_zipas_client(folder, wave):
    """What that client does with the three files, frame by frame: blanks first, then at most three symbols a frame."""
    import onnxruntime

    opened = {
        part: onnxruntime.InferenceSession(next((folder / "onnx").glob(f"{part}*")), providers=["CPUExecutionProvider"])
        for part in ("encoder", "decoder", "joiner")
    }
    feats = fbank_numpy(wave, FbankConfig())
    inputs = {"x": feats[None].astype(np.float32), "x_lens": np.array([len(feats)])}
    frames, count = opened["encoder"].run(None, inputs)
    history, tokens = [0, 0], []
    for frame in frames[0, : int(count[0])]:
        for _ in range(3):
            predicted = opened["decoder"].run(None, {"y": np.array([history])})[0]
            logits = opened["joiner"].run(None, {"encoder_out": frame[None], "decoder_out": predicted})[0]
            token = int(logits.argmax())
            if token == 0:
                break
            tokens.append(token)
            history = [history[1], token]
    return "".join(PIECES[token] for token in tokens)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_three_a_frame_is_what_zipas_client_does(eager, speech, runtime):
    source = eager / ("onnx" if runtime == "onnx" else "run")
    recognizer = Recognizer.from_pretrained(source, max_sym_per_frame=3, window_s=60.0)
    one = Recognizer.from_pretrained(source, window_s=60.0)
    found, single = recognizer.transcribe(speech), one.transcribe(speech)
    for path, transcript, plain in zip(speech, found, single):
        assert transcript.text == as_zipas_client(eager, load_audio(path))
        assert len(transcript.tokens) > len(plain.tokens) > 0


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_both_runtimes_find_the_same(eager, speech, most):
    opened = (Recognizer.from_pretrained(eager / place, max_sym_per_frame=most) for place in ("run", "onnx"))
    torch, onnx = (recognizer.transcribe(speech) for recognizer in opened)
    assert [t.text for t in torch] == [t.text for t in onnx]
    for ours, theirs in zip(torch, onnx):
        assert [(t.start, t.end) for t in ours.tokens] == [(t.start, t.end) for t in theirs.tokens]


def test_symbols_of_one_frame_share_it(eager, speech):
    transcript = Recognizer.from_pretrained(eager / "run", max_sym_per_frame=3).transcribe(speech[:1])[0]
    edges = [time for token in transcript.tokens for time in (token.start, token.end)]
    assert edges == sorted(edges) and edges[-1] <= transcript.duration
    assert all(token.end > token.start for token in transcript.tokens)
    assert textgrid({"phones": transcript.tokens}, transcript.duration).count("xmin") > len(transcript.tokens)


def test_the_share_of_each_by_hand():
    """Frames of 40 ms from 35 ms on; the outermost reach 50 and 100 ms into the silence around them."""
    spans = Hypothesis([1, 2, 3, 1], [2, 2, 2, 3], [3, 3, 3, 4], [0.5, 0.5, 0.5, 0.5])
    tokens = timed_tokens(spans, Vocabulary(["<blk>", "a", "b", "c"]), 0.04, 9.0)
    assert [t.symbol for t in tokens] == ["a", "b", "c", "a"]
    edges = [0.115, 0.115 + 0.04 / 3, 0.115 + 0.08 / 3, 0.155, 0.195]
    assert [t.start for t in tokens] == pytest.approx([0.065, *edges[1:-1]], abs=6e-4)
    assert [t.end for t in tokens] == pytest.approx([*edges[1:-1], 0.295], abs=6e-4)


def test_a_long_recording_is_not_cut_at_a_thousand_symbols(eager, speech):
    wave = np.tile(load_audio(speech[0]), 12)
    found = Recognizer.from_pretrained(eager / "run", max_sym_per_frame=3).transcribe([wave])[0]
    assert len(found.tokens) > 1000 and found.tokens[-1].end > 0.95 * found.duration


def test_where_it_has_no_meaning_it_is_refused(eager, models, tmp_path):
    for most in (0, -1):
        with pytest.raises(UserError, match="--max-sym-per-frame"):
            Recognizer.from_pretrained(eager / "run", max_sym_per_frame=most)
    with pytest.raises(UserError, match="--max-sym-per-frame.*1 for a CTC model"):
        Recognizer.from_pretrained(models() / "run", max_sym_per_frame=3)
    (tmp_path / "phones.txt").write_text("tʰ\na\n", encoding="utf-8")
    with pytest.raises(UserError, match="--max-sym-per-frame.*several pieces"):
        Recognizer.from_pretrained(eager / "run", max_sym_per_frame=3, inventory=tmp_path / "phones.txt")


def test_phones_of_single_pieces_still_bound_it(eager, speech, tmp_path):
    (tmp_path / "phones.txt").write_text("a\nk\n", encoding="utf-8")
    options = {"max_sym_per_frame": 3, "inventory": tmp_path / "phones.txt"}
    for place in ("run", "onnx"):
        text = Recognizer.from_pretrained(eager / place, **options).transcribe(speech[:1])[0].text
        assert text and set(text) <= set("ak")


def test_the_programs_take_it(eager, speech, call, one_line, monkeypatch):
    def said(program, *arguments):
        result = call(program, *arguments)
        assert result.returncode in (0, None), result
        return result.out

    model = ("--model-path", eager / "onnx", "--model-type", "transducer")
    three = said("inference.py", speech[0], *model, "--max-sym-per-frame", "3")
    assert three.strip() == as_zipas_client(eager, load_audio(speech[0]))
    assert three != said("inference.py", speech[0], *model)
    assert three.strip() in said("couloir", "transcribe", eager / "run", speech[0], "--max-sym-per-frame", "3")
    one_line("inference.py", (speech[0], *model, "--max-sym-per-frame", "0"), "--max-sym-per-frame")


def test_what_was_made_with_another_number_is_not_resumed(eager):
    first, second = (made_with(Recognizer.from_pretrained(eager / "run", max_sym_per_frame=n), None) for n in (1, 3))
    assert first != second and second["max_sym_per_frame"] == 3


def test_zipas_interface_takes_it(eager, speech, monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "inference"))
    from zipa_transducer_inference import initialize_model

    wave = load_audio(speech[0])
    arguments = (eager / "run" / "epoch-1.pt", eager / "run" / "lang" / "tokens.txt")
    one, three = (initialize_model(*arguments, max_sym_per_frame=n).inference([wave])[0] for n in (1, 3))
    assert initialize_model(*arguments).inference([wave])[0] == one != three
    assert "".join(three) == as_zipas_client(eager, wave)
