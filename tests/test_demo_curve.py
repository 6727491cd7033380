"""What a run of the demo says of its error rate, by the number of batches that its machine reached."""

import json
import math
import sys

import pytest
from programs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import demo_curve
from demo_curve import SEARCHES, comparison, expected, of_run

from couloir.errors import UserError

GREEDY = SEARCHES[0]
CURVE = {500: {GREEDY: 30.0}, 2000: {GREEDY: 10.0}}


@pytest.mark.parametrize(
    "batches, rate",
    # 1,000 is half way from 500 to 2,000 on a logarithmic scale.
    [(500, 30.0), (1000, 20.0), (2000, 10.0), (math.isqrt(500 * 1000), 25.0), (499, None), (2001, None)],
)
def test_rates_between_measured_ones_lie_on_a_logarithmic_scale(batches, rate):
    found = expected(CURVE, batches, GREEDY)
    assert found is None if rate is None else found == pytest.approx(rate, abs=0.01)


def test_one_measured_number_is_expected_of_itself_alone():
    assert expected({450: {GREEDY: 28.0}}, 450, GREEDY) == 28.0
    assert expected({450: {GREEDY: 28.0}}, 451, GREEDY) is None
    assert expected({}, 450, GREEDY) is None


def test_a_run_that_fell_behind_is_told_what_is_expected_and_what_to_do():
    run = {"batches": 1000, "loss": "CR-CTC", "intended": 2000, "rates": {GREEDY: 21.3}}
    lines = comparison(run, {"CR-CTC": CURVE})
    assert lines[0].endswith("expected after 1000 batches")
    assert lines[1].split() == [GREEDY, "21.3", "20.0"]
    assert "2000 batches are reached, and 10.0 %" in lines[2] and "MINUTES=60 ./demo.sh" in lines[2]
    assert len(comparison({**run, "batches": 1900}, {"CR-CTC": CURVE})) == 2
    assert comparison(run, {})[1].endswith("not measured")


def test_a_run_directory_is_read(tmp_path):
    (tmp_path / "config.yaml").write_text("loss: {use_cr_ctc: false}\ntrainer: {schedule_batches: 2200}\n")
    with pytest.raises(UserError, match="`--show` must be a run that was trained and decoded, but .* holds no reports"):
        of_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 50}\n{"step": 490}\n')
    (tmp_path / GREEDY).mkdir()
    (tmp_path / GREEDY / "report.json").write_text(json.dumps({"overall": {"rate": 29.5}}))
    assert of_run(tmp_path) == {"batches": 490, "loss": "CTC", "intended": 2200, "rates": {GREEDY: 29.5}}


def test_the_kept_curve_falls_and_covers_the_settings_of_the_demo():
    curves = demo_curve.measured()
    assert max(curves["CR-CTC"]) == 2200
    for curve in curves.values():
        for search in SEARCHES:
            rates = [curve[batches][search] for batches in sorted(curve)]
            assert rates == sorted(rates, reverse=True)
