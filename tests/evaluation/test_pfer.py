from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from couloir.evaluation import pfer


@pytest.fixture(scope="module")
def panphon_distance():
    from panphon.distance import Distance

    return Distance()


def random_texts(seed: int, number: int, longest: int) -> list[str]:
    draw = random.Random(seed)
    symbols = [*pfer.feature_table().ids, *(["g", "☃", "ɚ", "ˀ", "ʰ", "\u0361", " ", "é", "²", "x̬"] * 60)]
    return ["".join(draw.choices(symbols, k=draw.randint(0, longest))) for _ in range(number)]


def test_equals_panphon_on_random_strings(panphon_distance):
    refs, hyps = random_texts(1, 120, 14), random_texts(2, 120, 14)
    expected = [
        panphon_distance.feature_edit_distance(a.replace("g", "ɡ"), b.replace("g", "ɡ")) for a, b in zip(refs, hyps)
    ]
    np.testing.assert_allclose(pfer.feature_edit_distances(refs, hyps), expected, rtol=0, atol=1e-9)


def test_segments_are_panphons(panphon_distance):
    table = pfer.feature_table()
    for text in random_texts(3, 300, 12):
        vectors = panphon_distance.fm.word_to_vector_list(text.replace("g", "ɡ"), numeric=True)
        assert table.features[table(text)].tolist() == (vectors or [])


def test_long_strings_need_wider_integers(panphon_distance):
    """Beyond 341 phones a saving does not fit 16 bits. Equal strings of which one has an end more: known distances."""
    a, gap = "tʰasiŋgo" * 70, "mumu" * 90
    alone = panphon_distance.feature_edit_distance("", "mumu") * 90
    assert pfer.feature_edit_distances([a, a, a], [a + gap, gap + a, a]) == pytest.approx([alone, alone, 0], abs=1e-9)


def test_batches_do_not_change_a_distance():
    refs, hyps = random_texts(4, 60, 60), random_texts(5, 60, 5)
    together = pfer.feature_edit_distances(refs, hyps)
    alone = [pfer.feature_edit_distances([a], [b])[0] for a, b in zip(refs, hyps)]
    assert together.tolist() == alone
    assert pfer.feature_edit_distances(hyps, refs).tolist() == alone


@pytest.mark.slow
def test_conventions_against_panphons_own_rates(panphon_distance):
    refs, hyps = ["pata", "t͡sikɡ", "", "ma"], ["bat", "siko", "a", ""]
    rates = pfer.pfer(refs, [*hyps])
    assert set(rates) == set(pfer.CONVENTIONS)
    distances = [panphon_distance.feature_edit_distance(h, r) for h, r in zip(hyps, refs)]
    longer = [panphon_distance.feature_edit_distance_div_maxlen(h, r) for h, r in zip(hyps, refs)]
    assert rates["utterance"] == pytest.approx(np.mean(distances), abs=1e-9)
    assert rates["phones"] == pytest.approx(100 * panphon_distance.feature_error_rate(hyps, refs), abs=1e-9)
    assert rates["longer"] == pytest.approx(100 * np.mean(longer), abs=1e-9)
    assert rates["features"] > rates["phones"]


def test_an_empty_hypothesis_is_all_features():
    assert pfer.pfer(["pata", "ŋo"], ["", ""])["features"] == pytest.approx(100)


def test_nothing_to_divide_by():
    assert all(np.isnan(value) for value in pfer.pfer([], []).values())
    rates = pfer.pfer(["", ""], ["", "a"])
    assert np.isnan(rates["phones"]) and np.isnan(rates["features"])
    assert rates["longer"] == pytest.approx(50 * pfer.feature_edit_distances([""], ["a"])[0])


def test_ascii_g_is_the_ipa_letter_and_unknown_characters_are_named():
    assert pfer.feature_edit_distances(["ga"], ["ɡa"]) == [0]
    assert pfer.feature_table().unknown("ɚt g☃") == ["ɚ", "☃"]


def test_table_is_read_without_importing_panphon_or_torch():
    code = (
        "import sys; from couloir.evaluation.pfer import pfer; pfer(['a'], ['b']);"
        "sys.exit(bool({'panphon', 'pandas', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
