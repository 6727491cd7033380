"""ARPA files as programs write them and as hands change them: the scores of the format's definition, or one line."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import math
import random
import re
from pathlib import Path

import kaldilm
import numpy as np
import pytest

from couloir.decoding.arpa import ArpaReader, arpa_words, copy_arpa, read_arpa
from couloir.decoding.ngram import NgramLm, estimate_arpa
from couloir.errors import UserError

PIECES = ["<blk>", "<sos/eos>", "<unk>", "a", "b", "c"]
GOOD = """\\data\\
ngram 1=5
ngram 2=4

\\1-grams:
-99\t<s>\t-0.30103
-0.8\t</s>
-0.6\ta\t-0.2
-0.7\tb\t-0.1
-0.9\tc\t0

\\2-grams:
-0.3\t<s> a
-0.4\ta b
-0.5\tb </s>
-0.6\tb c

\\end\\
"""
SENTENCES = ["ab", "abc", "c", "ba", "", "cc"]
# By hand, log10: a b </s>; a b c </s>; then with back-offs.
SCORES = [
    -1.2,
    -2.1,
    -0.30103 - 0.9 - 0.8,
    -0.30103 - 0.7 - 0.1 - 0.6 - 0.2 - 0.8,
    -0.30103 - 0.8,
    -0.30103 - 1.8 - 0.8,
]


def scores(path: Path, sentences: list[str] = SENTENCES, **options: int) -> list[float]:
    """log10 of sentences' probabilities."""
    lm = NgramLm(path, PIECES, **options)
    return (lm.sequence_scores([[PIECES.index(c) for c in s] for s in sentences]) / math.log(10)).tolist()


def by_definition(text: str, sentence: str) -> float:
    """log10 of a sentence's probability by the format's definition alone: the longest listed n-gram, else back off."""
    grams: dict[tuple[str, ...], tuple[float, float]] = {}
    order = 0
    for line in text.split("\n"):
        if found := re.fullmatch(r"\\(\d)-grams:", line):
            order = int(found[1])
        elif order and line == "\\end\\":
            break
        elif order and line:
            fields = line.split()
            back = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
            grams[tuple(fields[1 : order + 1])] = (float(fields[0]), back)
    highest = max(int(found) for found in re.findall(r"^ngram (\d+)=", text, re.MULTILINE))

    def log10(history: tuple[str, ...], word: str) -> float:
        history = history[-(highest - 1) :] if highest > 1 else ()
        if (*history, word) in grams:
            return grams[(*history, word)][0]
        return grams.get(history, (0.0, 0.0))[1] + log10(history[1:], word)

    words = ("<s>", *sentence, "</s>")
    return sum(log10(words[:i], words[i]) for i in range(1, len(words)))


def test_scores_by_hand_and_by_definition(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(GOOD)
    assert scores(tmp_path / "lm.arpa") == pytest.approx(SCORES, abs=1e-9)
    assert [by_definition(GOOD, sentence) for sentence in SENTENCES] == pytest.approx(SCORES, abs=1e-9)


EQUAL = {
    "CRLF": GOOD.replace("\n", "\r\n"),
    "CR": GOOD.replace("\n", "\r"),
    "blanks for tabs": GOOD.replace("\t", "  "),
    "tabs for blanks": GOOD.replace(" b", "\tb").replace(" c", "\tc"),
    "blanks at the ends": GOOD.replace("\n", " \t\n").replace("-0.4", "  -0.4"),
    "a byte order mark": "\ufeff" + GOOD,
    "text before": "Made by a program\n\n# ngram 7=3\n" + GOOD,
    "text behind": GOOD + "\n-0.1\tz\nngram 1=2\n",
    "no blank lines": re.sub(r"\n\n+", "\n", GOOD),
    "IRSTLM's head": GOOD.replace("ngram 1=5", "ngram  1=         5"),
    "SRILM's -inf": GOOD.replace("-99\t<s>", "-inf\t<s>"),
    "an order without n-grams": GOOD.replace("ngram 2=4", "ngram 2=4\nngram 3=0"),
    "an empty section": GOOD.replace("ngram 2=4", "ngram 2=4\nngram 3=0").replace("\\end\\", "\\3-grams:\n\n\\end\\"),
    "KenLM's 0 as back-off of all": GOOD.replace("</s>\n", "</s>\t0\n", 1).replace("-99\t<s>", "0\t<s>"),
    "KenLM's <unk>": GOOD.replace("1=5", "1=6").replace("-0.8\t</s>", "-2.5\t<unk>\t0\n-0.8\t</s>"),
    "blank as a word": GOOD.replace("1=5", "1=6").replace("-0.9\tc", "-1.2\t<blk>\t-0.1\n-0.9\tc"),
    "<eps> and #0 as words": GOOD.replace("1=5", "1=7").replace("-0.9\tc", "-1.2\t<eps>\n-3\t#0\t-9\n-0.9\tc"),
    "a back-off in the highest order": GOOD.replace("\ta b\n", "\ta b\t-0.7\n"),
    "exponents": GOOD.replace("-0.8", "-8e-1").replace("-0.30103", "-3.0103E-01").replace("-0.4", "-.4"),
    "n-grams that no sentence meets": GOOD.replace("2=4", "2=6").replace("-0.4\ta", "-1\ta <s>\n-1\t</s> a\n-0.4\ta"),
    "another order of lines": GOOD.replace("-0.3\t<s> a\n-0.4\ta b\n", "-0.4\ta b\n-0.3\t<s> a\n"),
}


@pytest.mark.parametrize("form", EQUAL)
def test_forms_of_one_model_have_its_scores(tmp_path: Path, form: str) -> None:
    (tmp_path / "lm.arpa").write_bytes(EQUAL[form].encode())
    assert scores(tmp_path / "lm.arpa") == pytest.approx(SCORES, abs=1e-9)
    assert set(arpa_words(tmp_path / "lm.arpa")[0]) == {"a", "b", "c"}


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz", "lm.arpa.bz2", "lm.xz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["no", "gz", "bz2", "xz"])
def test_packed_files_are_known_by_their_bytes(tmp_path: Path, name: str, pack) -> None:
    (tmp_path / name).write_bytes(pack(GOOD.encode("utf-8-sig")))
    assert scores(tmp_path / name) == pytest.approx(SCORES, abs=1e-9)
    copy_arpa(tmp_path / name, tmp_path / "copy.arpa")
    assert (tmp_path / "copy.arpa").read_text() == GOOD


REFUSED = {  # what is changed, and what the one line says
    "decimal comma": (GOOD.replace("-0.4\ta", "-0,4\ta"), r"line 14 of .*decimal point.*`-0,4`"),
    "nan": (GOOD.replace("-0.4\ta", "nan\ta"), "line 14 of .*`nan`"),
    "inf": (GOOD.replace("-0.4\ta", "inf\ta"), "line 14 of .*`inf`"),
    "nan as back-off": (GOOD.replace("-0.2\n", "nan\n"), "line 8 of .*`nan`"),
    "a number beyond all": (GOOD.replace("-0.2\n", "1e400\n"), "line 8 of .*`1e400`"),
    "an underscore": (GOOD.replace("-0.4\ta", "-0_4\ta"), "line 14 of .*`-0_4`"),
    "Arabic digits": (GOOD.replace("-0.4\ta", "-٠.٤\ta"), "line 14 of"),
    "above 0": (GOOD.replace("-0.4\ta", "0.4\ta"), "line 14 of .*at most 0"),
    "a field too many": (GOOD.replace("c\t0", "c\t0\tz"), "line 10 of .*a word and perhaps"),
    "a field too few": (GOOD.replace("-0.4\ta b", "-0.4\ta"), "line 14 of .*2 words"),
    "no </s>": (GOOD.replace("</s>", "e"), "</s>"),
    "<sos> and <eos>": (GOOD.replace("<s>", "<sos>").replace("</s>", "<eos>"), "</s>"),
    "an n-gram twice": (GOOD.replace("2=4", "2=5").replace("-0.4\ta b", "-0.4\ta b\n-0.5\ta b"), "line 15 of .*again"),
    "too few n-grams": (GOOD.replace("2=4", "2=5"), "line 3 of .*`ngram 2=4`.*cut off"),
    "too many n-grams": (GOOD.replace("2=4", "2=3"), "line 3 of .*`ngram 2=4`"),
    "an order without its section": (GOOD.replace("2=4", "2=4\nngram 3=7"), "line 4 of .*`ngram 3=0`"),
    "a first order without its section": (GOOD.replace("\\1-grams:", "\\2-grams:", 1), "`ngram 1=0`"),
    "an order that is not announced": (GOOD.replace("ngram 2=4\n", ""), r"line 11 of .*announced"),
    "orders the wrong way round": (GOOD.replace("\\1-", "\\3-").replace("ngram 2=4", "ngram 2=4\nngram 3=5"), "line "),
    "a count that is none": (GOOD.replace("1=5", "1=five"), "line 2 of .*`ngram N=COUNT`"),
    "a count below 0": (GOOD.replace("1=5", "1=-5"), "line 2 of"),
    "a count twice": (GOOD.replace("ngram 2=4", "ngram 2=4\nngram 2=4"), "line 4 of .*once"),
    "an order of 5,000 digits": (GOOD.replace("ngram 2=", "ngram " + "2" * 5000 + "="), "line 3 of"),
    "no end": (GOOD.replace("\\end\\\n", ""), "cut off"),
    "cut inside an n-gram": (GOOD[: GOOD.index("\t</s>\n-0.6")], "line 7 of .*but is '-0.8'"),
    "cut in its head": (GOOD[:16], "cut off"),
    "IRSTLM's own form": ("iARPA\n\n" + GOOD, "line 1 of .*compile-lm"),
    "no text at all": ("", "must be an ARPA"),
    "other text": ("hello\nworld\n", "must be an ARPA"),
    "words with a no-break space": (GOOD.replace("a b", "a\u00a0b"), "line 14 of .*2 words"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_has_no_right_score_is_one_line_with_file_and_line(tmp_path: Path, form: str) -> None:
    text, said = REFUSED[form]
    (tmp_path / "lm.arpa").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as error:
        scores(tmp_path / "lm.arpa")
    assert str(tmp_path / "lm.arpa") in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_a_zero_probability_is_srilms_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(GOOD.replace("-0.9\tc\t0", "-inf\tc\t-Infinity"))
    assert scores(path, ["c", "cb", "ab"]) == pytest.approx([-0.30103 - 99 - 99 - 0.8, -0.30103 - 99 * 2 - 1.2, -1.2])
    assert "-inf is taken as -99 (2)" in caplog.text
    lm = NgramLm(path, [*PIECES, "d"])  # a lacking token costs the rarest unigram that may occur
    assert lm.sequence_scores([[6]]).item() / math.log(10) == pytest.approx(-0.30103 - 0.7 - 0.8)


def test_a_model_without_a_begin_starts_without_history(tmp_path: Path) -> None:
    text = GOOD.replace("-99\t<s>\t-0.30103\n", "").replace("1=5", "1=4")
    (tmp_path / "lm.arpa").write_text(text.replace("2=4", "2=3").replace("-0.3\t<s> a\n", ""))
    assert scores(tmp_path / "lm.arpa", ["ab", "c", ""]) == pytest.approx([-0.6 - 0.4 - 0.5, -0.9 - 0.8, -0.8])
    (tmp_path / "lm.arpa").write_text(text)  # now it is in a bigram alone
    assert scores(tmp_path / "lm.arpa", ["ab", "c"]) == pytest.approx([-1.2, -0.9 - 0.8])


def test_unigrams_alone(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("\\2-")].replace("ngram 2=4\n", "") + "\\end\\\n"
    (tmp_path / "lm.arpa").write_text(text)  # its back-off weights mean nothing
    assert scores(tmp_path / "lm.arpa", ["ab", "c"]) == pytest.approx([-0.6 - 0.7 - 0.8, -0.9 - 0.8])
    (tmp_path / "lm.arpa").write_text(GOOD)
    assert scores(tmp_path / "lm.arpa", ["ab", "c"], max_order=1) == pytest.approx([-0.6 - 0.7 - 0.8, -0.9 - 0.8])


def test_a_beginning_that_is_not_listed_is_added_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `ngram -prune` may leave it: `c a b` is there, `c a` is not."""
    text = GOOD.replace("ngram 2=4", "ngram 2=4\nngram 3=1").replace("\\end\\", "\\3-grams:\n-0.05\tc a b\n\n\\end\\")
    (tmp_path / "lm.arpa").write_text(text)
    assert scores(tmp_path / "lm.arpa", ["cab", "cac"]) == pytest.approx(
        [-0.30103 - 0.9 - 0.6 - 0.05 - 0.5, -0.30103 - 0.9 - 0.6 - 0.2 - 0.9 - 0.8]
    )
    assert "are added (1)" in caplog.text


def random_arpa(seed: int, order: int, share: float = 0.4) -> str:
    """An ARPA file of random n-grams, suffixes not always listed, every prefix listed; back-offs on most."""
    rng = random.Random(seed)
    levels: list[list[tuple[str, ...]]] = [[("<s>",), ("</s>",), ("a",), ("b",), ("c",)]]
    for _ in range(1, order):
        longer = [
            (*gram, word) for gram in levels[-1] if gram[-1] != "</s>" for word in ("a", "b", "c", "</s>")
            if rng.random() < share
        ]  # fmt: skip
        levels.append(longer)
    lines = ["\\data\\", *(f"ngram {n}={len(level)}" for n, level in enumerate(levels, 1))]
    for n, level in enumerate(levels, 1):
        lines.append(f"\n\\{n}-grams:")
        for gram in level:
            score = -99 if gram == ("<s>",) else -rng.random() * 3
            back = f"\t{rng.random() * 2 - 1.5:.5f}" if n < order and gram[-1] != "</s>" and rng.random() < 0.8 else ""
            lines.append(f"{score:.5f}\t{' '.join(gram)}{back}")
    return "\n".join([*lines, "\n\\end\\\n"])


@pytest.mark.parametrize(("seed", "order"), itertools.product(range(4), (1, 2, 3, 4)))
def test_random_models_have_the_scores_of_the_definition(tmp_path: Path, seed: int, order: int) -> None:
    text, rng = random_arpa(seed, order), random.Random(seed)
    (tmp_path / "lm.arpa").write_text(text)
    sentences = ["".join(rng.choices("abc", k=rng.randrange(9))) for _ in range(30)]
    expected = [by_definition(text, sentence) for sentence in sentences]
    assert scores(tmp_path / "lm.arpa", sentences) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_acceptor_is_kaldilms(tmp_path: Path, order: int) -> None:
    """icefall's graphs come of kaldilm; states are numbered otherwise, so arcs are compared by what they weigh."""
    estimate_arpa([list(s) for s in ("abcabc", "aab", "", "cb", "abccba")], order, tmp_path / "lm.arpa")
    ours = read_arpa(tmp_path / "lm.arpa", PIECES)
    (tmp_path / "tokens").write_text("".join(f"{piece} {i}\n" for i, piece in enumerate([*PIECES, "#0"])))
    table = {"disambig_symbol": "#0", "read_symbol_table": str(tmp_path / "tokens")}
    (tmp_path / "2gram.fst.txt").write_text(kaldilm.arpa2fst(str(tmp_path / "lm.arpa"), "", **table))
    theirs = NgramLm(tmp_path / "2gram.fst.txt", PIECES)
    mine = NgramLm(tmp_path / "lm.arpa", PIECES)
    sequences = [[random.Random(i).choice([3, 4, 5]) for _ in range(i % 7)] for i in range(40)]
    # kaldilm prints six digits, here 5e-6 each; seven arcs, each behind two back-offs at most, are 21 of them.
    assert mine.sequence_scores(sequences).tolist() == pytest.approx(
        theirs.sequence_scores(sequences).tolist(), abs=21 * 5e-6
    )
    assert mine.num_states == theirs.num_states and np.isfinite(ours.score).all()


WORDS = [b"nan", b"-inf", b"9" * 30, b"\\", b"\n", b"\t", b"\0", b"\xff", b"\\end\\\n", b"<s>", b" a", b"-"]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes replaced, removed, doubled, or a stretch cut out."""
    text = bytearray(data)
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(text))
        kind = rng.randrange(5)
        if kind == 0:
            text[at] = rng.randrange(256)
        elif kind == 1:
            del text[at : at + rng.randrange(1, 12)]
        elif kind == 2:
            text[at:at] = text[at : at + rng.randrange(1, 30)]
        elif kind == 3:
            text[at:at] = rng.choice(
                [b"nan", b"-inf", b"9" * 30, b"\\", b"\n", b"\t", b"\0", b"\xff", b"\\end\\\n", b"<s>"]
            )
        else:
            text = text[:at] or text
    return bytes(text)


@pytest.mark.parametrize("times", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_score_or_are_refused_in_one_line(tmp_path: Path, times: int) -> None:
    rng, path, seen = random.Random(1), tmp_path / "lm.arpa", {"scored": 0, "refused": 0}
    good = random_arpa(1, 3).encode()
    for _ in range(times):
        path.write_bytes(mutated(good, rng))
        try:
            found = scores(path, ["ab", "cab"])
            text = path.read_bytes().decode()
            assert all(map(math.isfinite, found))
            expected = [by_definition(text, s) for s in ("ab", "cab")] if _is_plain(path) else found
            assert found == pytest.approx(expected, abs=1e-6)
            seen["scored"] += 1
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 600
            seen["refused"] += 1
    assert min(seen.values()) >= times * 0.01


def _is_plain(path: Path) -> bool:
    """Whether a file that was read holds nothing that the definition above would read otherwise."""
    reader, rows = ArpaReader(path), []
    rows = [row.words for row in reader]
    known = {tuple(words) for words in rows}
    prefixes = all(tuple(words[:-1]) in known for words in rows if len(words) > 1)
    return not reader.notes and prefixes and {"a", "b", "c", "<s>", "</s>"} <= {words[0] for words in rows}
