"""The page's modules, run by Node, give what the library gives: times, text, TextGrids, windows, samples."""

import random
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import soundfile
import soxr
from node import ask

from couloir import audio
from couloir.errors import UserError
from couloir.inference import onnx_backend, transcript, windows
from couloir.inference.formats import textgrid, tiers_of
from couloir.inference.recognizer import Recognizer
from couloir.inference.search import ctc_greedy
from couloir.inference.transcript import Token, Transcript, timed_tokens
from couloir.inference.vocabulary import Vocabulary, read_pieces, read_vocabulary
from couloir.models import geometry
from couloir.models.geometry import FrameGeometry
from couloir.text.tokenizer import has_names

PIECES = ["<blk>", "<unk>", "▁", "▁a", "ʰ", "ː", '"', "t͡s", "̃", "o", "<0xC3>", "<0xA9>"]

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="needs node")


def log_probs(rng, length):
    """(S, V) rows that change their best token every few frames, with blanks between and long ones at times."""
    width = len(PIECES)
    scores = rng.normal(size=(length, width))
    runs = rng.choice([0, 0, 0, *range(width)], size=length)
    best = np.repeat(runs, rng.integers(1, 14, size=length))[:length]
    scores[np.arange(length), best] += 6
    return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


def test_constants_are_pythons():
    (answer,) = ask(("constants", None))
    expected = {name: getattr(transcript, name) for name in dir(transcript) if name.endswith("_S") and name.isupper()}
    expected["BLANKS_OF_FIRST"] = transcript.BLANKS_OF_FIRST
    expected |= {"SAMPLE_RATE": audio.SAMPLE_RATE, "PROBE_EMBEDDED": onnx_backend.PROBE_EMBEDDED}
    expected |= {"MISSING_ALLOWED_S": audio.MISSING_ALLOWED_S, "LOUDEST": audio.LOUDEST, "CANCELLED": audio.CANCELLED}
    expected |= {"STEP_SAMPLES": windows.STEP_SAMPLES, "NEIGHBOURHOOD_S": windows._NEIGHBOURHOOD_S}
    defaults = Recognizer.__init__.__kwdefaults__
    expected |= {"WINDOW_S": defaults["window_s"], "OVERLAP_S": defaults["overlap_s"]}
    usual = {name: value for name, value in asdict(FrameGeometry()).items() if name not in geometry.READ_OFF}
    expected |= {"USUAL_GEOMETRY": usual, "MAX_GEOMETRY_FRAMES": geometry.MAX_FRAMES}
    assert answer["value"] == expected


def test_transcripts_and_textgrids(tmp_path):
    rng = np.random.default_rng(0)
    # Lengths that lie halfway between two milliseconds, whole seconds, and one shorter than the tokens reach.
    sizes = [(60, 0.02, 17000), (60, 0.04, 40040), (400, 0.02, 128008), (400, 0.04, 256000), (50, 0.02, 15999)]
    cases = [(log_probs(rng, length), shift, samples) for length, shift, samples in sizes]
    cases.append((np.log(np.full((30, len(PIECES)), [0.89] + [0.01] * 11, np.float32)), 0.02, 9600))
    given = ({"frames": f.tolist(), "pieces": PIECES, "shift": s, "duration": n / 16000} for f, s, n in cases)
    answers = ask(*(("transcript", case) for case in given))
    vocabulary = Vocabulary(PIECES)
    for (frames, shift, samples), answer in zip(cases, answers):
        spans, found = ctc_greedy(frames), answer["value"]
        tokens = timed_tokens(spans, vocabulary, shift, samples / 16000)
        *times, confidences = ([t[key] for t in found["tokens"]] for key in ("symbol", "start", "end", "confidence"))
        assert times == [[t.symbol for t in tokens], [t.start for t in tokens], [t.end for t in tokens]]
        # numpy's exponential of float32 differs in the last bit.
        np.testing.assert_allclose(confidences, [t.confidence for t in tokens], atol=1.1e-4)
        assert found["text"] == vocabulary.text(spans.tokens) == "".join(found["written"])
        assert len(found["written"]) == found["phones"]
        expected = np.mean(spans.confidences) if tokens else np.exp(frames[:, 0]).mean()
        assert found["confidence"] == pytest.approx(expected, abs=1e-4)
        whole = Transcript("", found["text"], tokens, round(samples / 16000, 3), 0.5, shift)
        assert found["textGrid"] == textgrid(tiers_of(whole), whole.duration)
    assert sum(len(answer["value"]["tokens"]) for answer in answers) > 60


VOCABULARIES = [
    PIECES,
    ["<blk>", "<unk>", "aa", "ae", "ah", "b", "ch", "d", "dh", "eh", "hh", "iy", "jh", "SIL"],
    ["<blk>", "yes", "no", "stop", "ŋa", "ɓala"],
    ["<blk>", "pʰ", "tʰ", "kʰ", "aː", "iː", "ʃ", "ŋ"],
    ["<blk>", "p", "a", "t", "s"],
    ["<blk>", "<space>", "yes", "no"],
    ["<blk>", "▁yes", "no"],
    ["<blk>", *"你好"],
    ["<blk>", "zhōng", "guó", "ē", "über"],
    ["<blk>"],
]


def test_names_have_blanks_between_them_as_in_python():
    for pieces, answer in zip(VOCABULARIES, ask(*(("between", pieces) for pieces in VOCABULARIES))):
        assert answer["value"] == (" " if has_names(pieces) else ""), pieces


def test_a_text_of_names_is_pythons():
    pieces, rng = VOCABULARIES[1][: len(PIECES)], np.random.default_rng(1)
    frames = log_probs(rng, 80)
    case = {"frames": frames.tolist(), "pieces": pieces, "shift": 0.02, "duration": 2.0}
    found = ask(("transcript", case))[0]["value"]
    text = Vocabulary(pieces).text(ctc_greedy(frames).tokens)
    assert found["text"] == text == "".join(found["written"]) and " " in text


def test_words_are_pythons(tmp_path):
    for symbols in ("ab c", " a bc ", "ab", "a ", " ", ""):
        tokens = [Token(symbol, i, i + 1, 0.5) for i, symbol in enumerate(symbols)]
        (answer,) = ask(("words", [asdict(token) for token in tokens]))
        words = Transcript("", symbols.strip(), tokens, 9.0, 0.5, 0.02).words()
        assert answer["value"] == [asdict(word) for word in words]
        assert [word.symbol for word in words] == (symbols.split() if " " in symbols else [])


def test_windows_are_cut_and_joined_alike():
    rng = np.random.default_rng(1)
    lengths = [480000, 480001, *rng.integers(1, 60_000_000, 50).tolist()]
    cuts = [(length, 480000, 64000) for length in lengths]
    joins = []
    for shift, hop in ((0.02, 64), (0.04, 36)):
        whole, offsets = log_probs(rng, 300), [0, hop, 2 * hop]
        parts = [whole[at : at + 120].copy() for at in offsets]
        for part in parts:  # windows that differ here and there
            part += rng.normal(scale=0.3, size=part.shape) * (rng.random((120, 1)) < 0.4)
        joins.append((parts, offsets, shift))
    answers = ask(
        *(("cut", case) for case in cuts),
        *(("join", {"parts": [p.tolist() for p in parts], "offsets": o, "shift": s}) for parts, o, s in joins),
    )
    for case, answer in zip(cuts, answers):
        assert answer["value"] == [[w.start, w.stop] for w in windows.cut(*case)]
    for (parts, offsets, shift), answer in zip(joins, answers[len(cuts) :]):
        expected = windows.join(parts, offsets, shift, likelihoods=True)
        np.testing.assert_array_equal(np.array(answer["value"], np.float32).reshape(-1, len(PIECES)), expected)


def test_wave_files_give_pythons_samples(tmp_path):
    rng = np.random.default_rng(2)
    kinds = [("WAV", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")] + [("WAVEX", "PCM_16")]
    paths = [tmp_path / f"{kind}-{subtype}.wav" for kind, subtype in kinds]
    for path, (kind, subtype) in zip(paths, kinds):
        soundfile.write(path, rng.uniform(-1, 1, (999, 2)), 16000, subtype=subtype, format=kind)
    soundfile.write(tmp_path / "long.wav", np.zeros(8000), 16000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "long.wav").read_bytes()[:4364])
    soundfile.write(tmp_path / "a.flac", np.zeros(100), 16000)
    (tmp_path / "header.wav").write_bytes(paths[0].read_bytes()[:20])
    others = [tmp_path / name for name in ("cut.wav", "a.flac", "header.wav")]
    *answers, cut, flac, header = ask(*(("wav", str(path)) for path in paths + others))
    for path, answer in zip(paths, answers):
        assert answer["value"]["rate"] == 16000
        found = np.array(answer["value"]["samples"], np.float32)
        np.testing.assert_array_equal(found, audio.load_audio(path), str(path))
    with pytest.raises(UserError, match=cut["error"]):
        audio.load_audio(tmp_path / "cut.wav")
    assert flac["value"] is None and header["value"] is None


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_is_soxrs(rate):
    """Of white noise, the hardest: to -100 dB where soxr works in one step, to -55 dB where it has other filters."""
    samples = np.random.default_rng(4).normal(scale=0.1, size=rate // 2 + 77).astype(np.float32)
    (answer,) = ask(("resampled", [samples.tolist(), rate]))
    found, expected = np.array(answer["value"], np.float32), soxr.resample(samples, rate, 16000)
    assert found.shape == expected.shape
    inner = slice(200, -200)
    noise = np.square((found - expected)[inner]).sum() / np.square(expected[inner]).sum()
    assert 10 * np.log10(noise) < (-100 if rate == 48000 else -55)
    (short,) = ask(("resampled", [[0.5], 44100]))
    assert len(short["value"]) == len(soxr.resample(np.array([0.5]), 44100, 16000))


def test_rates_are_read_from_the_first_bytes(tmp_path):
    expected = {}
    for rate in (8000, 11025, 16000, 22050, 24000, 44100, 48000):
        for suffix in ("flac", "ogg", "mp3"):
            path = tmp_path / f"{rate}.{suffix}"
            soundfile.write(path, np.zeros(rate), rate)
            expected[path] = {"rate": rate} | ({"seconds": 1} if suffix == "flac" else {})
    tagged = tmp_path / "tagged.mp3"
    size = bytes([0, 0, 2, 44])  # 2 * 128 + 44
    tagged.write_bytes(b"ID3\x04\x00\x00" + size + bytes(300) + (tmp_path / "22050.mp3").read_bytes())
    soundfile.write(tmp_path / "a.opus", np.zeros(16000), 16000, format="OGG", subtype="OPUS")
    expected |= {tagged: {"rate": 22050}, tmp_path / "a.opus": {"rate": 48000}}
    for name, content in {"text": b"no sound", "short": b"fLaC", "id3": b"ID3", "nothing": b""}.items():
        (tmp_path / name).write_bytes(content)
        expected[tmp_path / name] = None
    answers = ask(*(("head", str(path)) for path in expected))
    assert {path: answer["value"] for path, answer in zip(expected, answers)} == expected


def test_wave_files_are_written(tmp_path):
    samples = np.array([0, 0.5, -1, 1, 1.5, 1e-5], np.float32)
    (answer,) = ask(("encoded", samples.tolist()))
    (tmp_path / "a.wav").write_bytes(bytes(answer["value"]))
    found, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 16000
    np.testing.assert_allclose(found, samples.clip(-1, 1), atol=2**-15)


GOOD_TABLES = [
    "<blk> 0\n▁a 1\n#0 3\n\nʰ 2\nʰ 2\n", "<blk> 0\r\n<unk> 1\r\n▁ 2\r\n", "<blk> 0\na b 1\n", "<eps> 0\na 1\n",
    "\ufeff<blk> 0\na 1\n", "<blk>\t0\r\u2028\t1\r\x85 2", "0 <blk>\n1 a\n2 1\n", "0 <blk>\n1\n2 a",
    "<blk> 0\n  1\na  2  \n",
    "<blank> 0\n<space> 1\n<0xE7> 2\n", "<blk> 0\n1 1\n2 2\n", "<blk> 0\n\u00a0 1\n\u3000 2\n", "<blk> 00\na 01\n",
]  # fmt: skip
BAD_TABLES = ["", "a 0\nb 0\n", "<blk> 0\nb 2\n", "<blk> 0\na\n", "a x\n", " 0\n", "a 0\nb 1\n", "<blk> 0\na \u0661\n",
              "<blk> 0\na 1234567890\n", "<blk> 0\na -1\n", "<blk> 0\na 1.0\n", "a 0\n<blk> 1\n"]  # fmt: skip


def test_tokens_are_read_alike(tmp_path):
    path = tmp_path / "tokens.txt"
    answers = ask(*(("tokens", text) for text in GOOD_TABLES + BAD_TABLES))
    for text, answer in zip(GOOD_TABLES + BAD_TABLES, answers):
        path.write_text(text, encoding="utf-8", newline="")
        if text in GOOD_TABLES:
            assert answer["value"] == read_pieces(path)
        else:
            assert answer["error"]
            with pytest.raises(UserError):
                read_vocabulary(path, 3, "a model")


def test_pieces_are_shown_alike():
    rng = random.Random(0)
    starts = "爿é😀a\ufeff\u0085".encode()
    rows = [
        ["<0xE7>", "<0x88>", "<0xbf>", "a"],
        ["<unk>", "<blank>", "<space>", "a▁b", "<s>"],
        ["<0xED>", "<0xA0>", "<0x80>"],
        [],
    ]
    for _ in range(200):
        values = [rng.choice([*starts, rng.randrange(256)]) for _ in range(rng.randrange(1, 7))]
        part = [f"<0x{value:02X}>" for value in values]
        rows.append([*part, rng.choice(["a", "▁b", "北", "<unk>", "<blk>"]), *part[:2]])
    rows += [[f"<0x{value:02X}>" for value in text.encode()] for text in ("爿é😀", "a\ufeffb", "\ufeff", "\0")]
    for pieces, answer in zip(rows, ask(*(("surfaces", row) for row in rows))):
        vocabulary = Vocabulary(pieces)
        ids, (joined, alone) = range(len(pieces)), answer["value"]
        assert joined == vocabulary.surfaces(ids)
        assert [one for one, piece in zip(alone, pieces) if not piece.startswith("<0x")] == [
            vocabulary.surface(i) for i in ids if not pieces[i].startswith("<0x")
        ]
    assert ask(("surfaces", rows[0]))[0]["value"][0] == ["爿", "", "", "a"]


def test_spectrum_is_numpys():
    frame = np.random.default_rng(3).normal(size=160).astype(np.float32)
    (answer,) = ask(("power", frame.tolist()))
    np.testing.assert_allclose(answer["value"], np.abs(np.fft.rfft(frame, 512)[:256]) ** 2, rtol=1e-3, atol=1e-4)


def test_a_model_of_another_machine_is_known_by_its_host():
    own = ["model/", "./x", "/a/b.onnx", "../..", "http://127.0.0.1:8000/m", "?x", "", "http://[bad"]
    others = {
        "https://elsewhere": "elsewhere",
        "https://hub.example:444/m/": "hub.example:444",
        "//elsewhere/m": "elsewhere",
        "\\\\elsewhere\\m": "elsewhere",
        " https://elsewhere/": "elsewhere",
        "http:\t//elsewhere": "elsewhere",
        "https://127.0.0.1:8000@elsewhere/": "elsewhere",
        "http://localhost:8000/m": "localhost:8000",
        "http://127.0.0.1:8001/m": "127.0.0.1:8001",
        "https://127.0.0.1:8000/m": "127.0.0.1:8000",
        "https://\u0435xample.org/": "xn--xample-2of.org",  # a Cyrillic letter that looks like e
        "https://0x7f.1/": "127.0.0.1",
        "data:text/plain,x": "data:",
        "blob:http://127.0.0.1:8000/1": "blob:",
        "javascript:alert(1)": "javascript:",
        "file:///etc/passwd": "file:",
    }
    answers = ask(*(("host", source) for source in [*own, *others]))
    assert [answer["value"] for answer in answers] == [""] * len(own) + list(others.values())
