"""TextGrids: both forms, codes, labels, speakers, damage; and the utterances that come out of them."""

import random

import pytest
from user_files import LONG, SHORT, grid, put

from couloir.data.corpora.annotated import utterances_of
from couloir.data.corpora.base import Dropped, Phone, Utterance
from couloir.data.corpora.textgrid import read_textgrid, speaker_and_name
from couloir.errors import UserError

WHOLE = Utterance("r", "r.wav", "", "sw", "")


def utterances(tmp_path, content, whole=WHOLE):
    return list(utterances_of(put(tmp_path / "a.TextGrid", content), whole))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_the_long_form_of_a_textgrid(tmp_path, encoding, ends):
    text = LONG.replace("\n", ends)
    data = b"\xfe\xff" + text.encode("utf-16-be") if encoding == "utf-16-be-bom" else text.encode(encoding)
    words, phones = read_textgrid(put(tmp_path / "a.TextGrid", data))
    assert [tuple(interval) for interval in words.intervals] == [
        (0, 0.5, ""),
        (0.5, 1.25, 'say "no" 2'),
        (1.25, 2.3, "sil"),
    ]
    assert [interval.label for interval in phones.spoken()] == ["n", "əʊ"]


def test_the_short_form_is_the_same_values(tmp_path):
    sentences, phones = read_textgrid(put(tmp_path / "a.TextGrid", SHORT))
    assert [interval.label for interval in sentences.intervals] == ["first one", "", "second"]
    assert phones.intervals[2] == (5.0, 5.5, "s")


LABELS = [
    "pa[1] ta", "[1]", "a [12] b", "intervals [2]:", "1", "1.5 2e3", "-1", 'say "no"', '"', "x = 3", "a\u2028b",
    "a\u0085b", "a\fb", "<exists>", "a\nb", "\\", "50%", "[laugh] ha", "size = 3", "北東", "e\u0301",
]  # fmt: skip


@pytest.mark.parametrize("label", LABELS, ids=ascii)
@pytest.mark.parametrize("form", ["long", "short"])
def test_a_label_is_what_was_written(tmp_path, label, form):
    quoted = label.replace('"', '""')
    text = LONG.replace('say ""no"" 2', quoted) if form == "long" else SHORT.replace("first one", quoted)
    tier = read_textgrid(put(tmp_path / "a.TextGrid", text))[0]
    assert tier.intervals[1 if form == "long" else 0].label == label.strip() and len(tier.intervals) == 3


def test_praats_own_library_reads_the_same(tmp_path):
    parselmouth = pytest.importorskip("parselmouth")
    rows = [(0, 1, "pa[1] ta"), (1, 2, 'say "no"'), (2, 9.5, "x = 3")]
    for content in (LONG, SHORT, grid([("words", rows), ("phones", [(0, 9.5, "a")])])):
        path = put(tmp_path / "a.TextGrid", content)
        theirs = parselmouth.read(str(path))
        for tier in read_textgrid(path):
            number = next(
                n for n in range(1, parselmouth.praat.call(theirs, "Get number of tiers") + 1)
                if parselmouth.praat.call(theirs, "Get tier name...", n) == tier.name
            )  # fmt: skip
            for at, (start, end, label) in enumerate(tier.intervals, 1):
                if label:
                    assert parselmouth.praat.call(theirs, "Get label of interval...", number, at) == label
                    assert parselmouth.praat.call(theirs, "Get start point...", number, at) == start
                    assert parselmouth.praat.call(theirs, "Get end point...", number, at) == end


@pytest.mark.parametrize(
    "content",
    [
        "", "hello", LONG[:400], SHORT[:150], LONG.replace("0.75", "x"), "\0" * 100, "ooBinaryFile\x08TextGrid",
        SHORT.replace("TextGrid", "Pitch"), SHORT.replace("3\n0\n2.0", "9" * 5000), SHORT.replace("2.0", "1e999"),
        SHORT.replace("3\n0\n2.0", "-3\n0\n2.0"), SHORT.replace("IntervalTier", "PitchTier"), "[" * 10**5,
        '"' * 10**5, SHORT.replace("2.1", "1.2"), LONG.replace("size = 3", "size = 999999999999"),
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<absent>\n',
        '"ooTextFile" "TextGrid" 0 1 <exists> 2.5 "IntervalTier"',
    ],
)  # fmt: skip
def test_a_damaged_textgrid_is_named(tmp_path, content):
    with pytest.raises(UserError, match=r"a\.TextGrid (is not a TextGrid|must be|` must be)|a\.TextGrid`") as error:
        read_textgrid(put(tmp_path / "a.TextGrid", content))
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_latin_1_is_named_not_guessed(tmp_path):
    with pytest.raises(UserError, match=r"a\.TextGrid` must be UTF-8"):
        read_textgrid(put(tmp_path / "a.TextGrid", SHORT.replace("first", "prém").encode("latin-1")))


@pytest.mark.parametrize(
    ("tier", "found"),
    [
        ("words", ("", "words")), ("Words", ("", "words")), (" phones ", ("", "phones")),
        ("ann - words", ("ann", "words")),
        ("Ann - Phones", ("Ann", "phones")), ("words - bob", ("bob", "words")), ("ann_words", ("ann", "words")),
        ("phones_ann", ("ann", "phones")), ("S1:utterances", ("S1", "utterances")), ("ann-words", ("ann", "words")),
        ("a - b - words", ("a - b", "words")), ("ORT-MAU", ("", "ort-mau")), ("KAN-MAU", ("", "kan-mau")),
        ("MAU", ("", "mau")), ("ann", ("", "ann")), ("spk_1_phones", ("spk_1", "phones")), ("text-fr", ("", "text-fr")),
        ("words-phones", ("", "words-phones")), (" - words", ("", "- words")), ("ann - ipa", ("ann", "ipa")),
    ],
)  # fmt: skip
def test_whose_a_tier_is(tier, found):
    assert speaker_and_name(tier) == found


def test_a_long_recording_is_cut_at_its_utterances(tmp_path):
    first, second = utterances(tmp_path, SHORT)
    assert (first.text, first.start, first.duration) == ("first one", 0.0, 2.0)
    assert (second.text, second.start, second.duration) == ("second", 4.5, 5.0)
    assert first.phones == (Phone("f", 0.25, 0.25),)  # the middle of "n" is not in it
    assert second.phones == (Phone("s", 0.5, 0.5),)
    assert first.id != second.id


TWO = [
    ("ann - words", [(0, 1, "habari"), (1, 6, ""), (6, 7, "tena"), (7, 9.5, "")]),
    ("ann - phones", [(0, 0.5, "h"), (0.5, 1, "a"), (1, 6, "sil"), (6, 7, "t"), (7, 9.5, "")]),
    ("bob - words", [(0, 2, ""), (2, 3, "mzuri"), (3, 9.5, "")]),
    ("bob - phones", [(0, 2, ""), (2, 2.5, "m"), (2.5, 3, "u"), (3, 9.5, "sp")]),
]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
@pytest.mark.parametrize("style", ["{} - {}", "{}_{}", "{}:{}", "{1} - {0}"])
def test_each_turn_of_several_speakers_is_an_utterance(tmp_path, order, style):
    tiers = [(style.format(*TWO[i][0].split(" - ")), TWO[i][1]) for i in order]
    found = utterances(tmp_path, grid(tiers))
    rows = {(u.speaker, u.text, u.start, round(u.duration, 3)): [tuple(p) for p in u.phones] for u in found}
    assert rows == {
        # a tenth of a second of the silence before and after is kept
        ("ann", "habari", 0.0, 1.1): [("h", 0.0, 0.5), ("a", 0.5, 0.5)],
        ("ann", "tena", 5.9, 1.2): [("t", 0.1, 1.0)],
        ("bob", "mzuri", 1.9, 1.2): [("m", 0.1, 0.5), ("u", 0.6, 0.5)],
    }
    assert len({u.id for u in found}) == 3


def test_turns_share_a_short_silence_and_overlap_as_they_did(tmp_path):
    tiers = [
        ("a - phones", [(1, 2, "a"), (4, 6, "e")]),
        ("b - phones", [(2.1, 3, "b"), (5, 7, "d")]),
    ]
    found = {(u.speaker, round(u.start, 3), round(u.start + u.duration, 3)) for u in utterances(tmp_path, grid(tiers))}
    assert found == {("a", 0.9, 2.05), ("b", 2.05, 3.1), ("a", 3.9, 6), ("b", 5, 7.1)}


def test_utterance_tiers_of_several_speakers(tmp_path):
    tiers = [
        ("ann - utterances", [(0, 1, "habari ya"), (1, 9.5, "")]),
        ("bob - utterances", [(0, 2, ""), (2, 3, "mzuri")]),
        ("bob - phones", [(2, 3, "m")]),
    ]
    ann, bob = utterances(tmp_path, grid(tiers), Utterance("r", "r.wav", "", "sw", "tape7"))
    assert (ann.speaker, ann.text, ann.start, ann.phones) == ("tape7-ann", "habari ya", 0, None)
    assert (bob.speaker, bob.text, bob.phones) == ("tape7-bob", "mzuri", (Phone("m", 0.0, 1.0),))


def test_of_one_speaker_the_folders_name_is_kept(tmp_path):
    tiers = [("ann - words", [(0, 9.5, "habari")])]
    assert [u.speaker for u in utterances(tmp_path, grid(tiers))] == ["ann"]
    (found,) = utterances(tmp_path, grid(tiers), Utterance("r", "r.wav", "", "sw", "folder"))
    assert (found.speaker, found.id, found.start) == ("folder", "r", None)


@pytest.mark.parametrize("label", ["spn", "SPN", "<unk>", "<spn>", "[unk]", "<usb>"])
def test_speech_that_is_not_known_is_no_silence(tmp_path, label):
    phones = [(0, 1, label), (1, 1.5, "m"), (1.5, 9.5, "o")]
    (found,) = utterances(tmp_path, grid([("words", [(0, 1, "<unk>"), (1, 9.5, "moja")]), ("phones", phones)]))
    assert isinstance(found, Dropped) and found.id == "r" and label in found.detail and "0 s" in found.detail
    cut, kept = utterances(tmp_path, grid([("utterances", [(0, 1, "x"), (1, 9.5, "moja")]), ("phones", phones)]))
    assert isinstance(cut, Dropped) and cut.id == "r-0000000"
    assert [phone.symbol for phone in kept.phones] == ["m", "o"]
    (words_alone,) = utterances(tmp_path, grid([("words", [(0, 1, label), (1, 9.5, "moja")])]))
    assert isinstance(words_alone, Dropped)


def test_a_word_that_is_not_known_but_has_its_phones_stays(tmp_path):
    (found,) = utterances(tmp_path, grid([("words", [(0, 9.5, "<unk>")]), ("phones", [(0, 9.5, "m")])]))
    assert [phone.symbol for phone in found.phones] == ["m"]


@pytest.mark.parametrize("label", ["", "sil", "SIL", "sp", "pau", "<p:>", "<nib>", "#", "_", "  "])
def test_silence_is_left_out(tmp_path, label):
    (found,) = utterances(tmp_path, grid([("phones", [(0, 1, label), (1, 9.5, "m")])]))
    assert found.phones == (Phone("m", 1.0, 8.5),)


def test_phones_that_are_no_ipa_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"must be IPA, but is `OW1`; export it as IPA, or rename"):
        utterances(tmp_path, LONG.replace("əʊ", "OW1"))


def test_unknown_and_repeated_tiers_are_named(tmp_path):
    with pytest.raises(UserError, match="named phones, words, utterances, but is mots, sons"):
        utterances(tmp_path, LONG.replace("anna - words", "mots").replace("anna - phones", "sons"))
    with pytest.raises(UserError, match=r"named once.*there twice: 'Phones'"):
        utterances(tmp_path, grid([("phones", [(0, 1, "a")]), ("Phones", [(0, 1, "b")])]))


def mutated(text, chance):
    """A TextGrid in which a few places were cut out, doubled, or became something else."""
    data = bytearray(text.encode(chance.choice(("utf-8", "utf-16", "utf-8-sig"))))
    for _ in range(chance.randrange(1, 6)):
        at, length = chance.randrange(len(data)), chance.randrange(1, 40)
        choice = chance.randrange(4)
        if choice == 0:
            del data[at : at + length]
        elif choice == 1:
            data[at:at] = data[at : at + length]
        elif choice == 2:
            data[at] = chance.randrange(256)
        else:
            data[at:at] = chance.choice(
                (b'"', b'""', b"9" * 30, b"-1", b"nan", b"1e400", b"\0", b"[1]", b"\n", "é".encode())
            )
        data = data or bytearray(b" ")
    return bytes(data)


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_textgrids_are_read_or_named(tmp_path, count):
    chance = random.Random(0)
    texts = [LONG, SHORT, grid(TWO)]
    outcomes = {"read": 0, "named": 0}
    for _ in range(count):
        path = put(tmp_path / "a.TextGrid", mutated(chance.choice(texts), chance))
        try:
            found = list(utterances_of(path, WHOLE))
        except UserError as error:
            assert "a.TextGrid" in str(error) and len(str(error)) < 2000
            outcomes["named"] += 1
            continue
        outcomes["read"] += 1
        for item in found:
            if isinstance(item, Utterance):
                times = [(p.start, p.duration) for p in item.phones or ()]
                assert all(abs(start) < 1e300 and 0 <= length < 1e300 for start, length in times)
                assert item.start is None or (item.duration is not None and item.duration > -1e-9)
    assert min(outcomes.values()) > count / 20
