from __future__ import annotations

import pytest

from couloir.evaluation.files import write_decoding_files

RESULTS = [
    ("utt-b", ["THE", "CAT", "SAT", "DOWN"], ["THE", "DOG", "SANG", "A", "SONG"]),
    ("utt-a", ["A", "B", "C"], ["A", "C", "D"]),
    ("utt-c", [], ["IT'S"]),
    ("utt-d", ["A"], []),
]


def test_icefall_format(tmp_path):
    rates = write_decoding_files(tmp_path, "test-clean", "epoch-30_avg-9", {"greedy": RESULTS})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "errs-test-clean-epoch-30_avg-9.txt",
        "recogs-test-clean-epoch-30_avg-9.txt",
        "wer-summary-test-clean-epoch-30_avg-9.txt",
    ]
    recogs = (tmp_path / "recogs-test-clean-epoch-30_avg-9.txt").read_text().splitlines()
    assert recogs[:2] == ["utt-a:\tref=['A', 'B', 'C']", "utt-a:\thyp=['A', 'C', 'D']"]
    assert recogs[4:6] == ["utt-c:\tref=[]", 'utt-c:\thyp=["IT\'S"]']
    assert [line.split(":")[0] for line in recogs[::2]] == ["utt-a", "utt-b", "utt-c", "utt-d"]
    errs = (tmp_path / "errs-test-clean-epoch-30_avg-9.txt").read_text()
    assert errs.startswith(
        "%WER = 100.00\nErrors: 3 insertions, 2 deletions, 3 substitutions, over 8 reference words (3"
    )
    lines = errs.splitlines()
    assert lines[4] == "PER-UTT DETAILS: corr or (ref->hyp)  "
    assert lines[5:9] == [
        "utt-a:\tA (B->*) C (*->D)",
        "utt-b:\tTHE (CAT SAT DOWN->DOG SANG A SONG)",
        "utt-c:\t(*->IT'S)",
        "utt-d:\t(A->*)",
    ]
    at = lines.index("DELETIONS: count ref")
    assert lines[at - 1 : at + 4] == ["", "DELETIONS: count ref", "1   B", "1   A", ""]
    at = lines.index("PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp")
    assert lines[at + 1] == "A   1 2 2 2"
    assert "THE   1 0 1 1" in lines[at:] and lines[at - 1] == ""
    summary = (tmp_path / "wer-summary-test-clean-epoch-30_avg-9.txt").read_text()
    assert summary == "settings\tWER\ngreedy\t100.0\n"
    assert rates == {"greedy": 100.0}


def test_no_key_overwrites_another(tmp_path):
    good = [(name, ref, ref) for name, ref, _ in RESULTS]
    rates = write_decoding_files(tmp_path, "t", "s", {"scale-0.5": RESULTS, "scale-1.0": good})
    assert list(rates.items()) == [("scale-1.0", 0.0), ("scale-0.5", 100.0)]
    names = {p.name for p in tmp_path.iterdir()}
    kinds = {f"{kind}-t-scale-{scale}-s.txt" for kind in ("recogs", "errs") for scale in ("0.5", "1.0")}
    assert names == kinds | {"wer-summary-t-s.txt"}
    assert (tmp_path / "wer-summary-t-s.txt").read_text() == "settings\tWER\nscale-1.0\t0.0\nscale-0.5\t100.0\n"


@pytest.mark.parametrize(("hyp", "wer"), [([], "0.00"), (["X"], "inf")])
def test_no_reference_word_at_all(tmp_path, hyp, wer):
    write_decoding_files(tmp_path, "t", "s", {"k": [("u", [], hyp)]})
    assert (tmp_path / "errs-t-s.txt").read_text().startswith(f"%WER = {wer}\n")


def test_a_test_sets_name_is_no_path_and_not_too_long(tmp_path):
    for name in ("test" + "x" * 245, "test/../../out", "test\n\x1b[2J"):
        write_decoding_files(tmp_path / "res", name, "s", {"k": RESULTS})
    found = [path.name for path in (tmp_path / "res").iterdir()]
    assert len(found) == 9 and [path.name for path in tmp_path.iterdir()] == ["res"]
    assert all(name.isprintable() and len(name) < 255 for name in found)
