"""What the programs of benchmarks/ share."""

import json
import re
import sys

import pytest
from programs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import inference_sections
import result_file
import results_page


def test_a_result_is_kept_whole_with_what_it_was_measured_on(tmp_path, monkeypatch):
    monkeypatch.setattr(result_file, "RESULTS", tmp_path)
    result_file.write_result("speed-of-x", {"rows": {"ɐ": 1}, "threads": 7})
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"speed-of-x-\d{4}-\d\d-\d\d\.json", path.name)
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["rows"] == {"ɐ": 1} and kept["threads"] == 7  # what the program says itself stands
    assert {"machine", "load average", "python", "torch"} <= kept.keys()
    assert [row["date"] for row in results_page.newest(tmp_path, "speed-")] == [path.stem[-10:]]

    with pytest.raises(TypeError):
        result_file.write_result("speed-of-x", {"rows": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == kept


def test_every_benchmark_keeps_its_result_by_the_same_function():
    for path in ROOT.glob("benchmarks/*.py"):
        text = path.read_text(encoding="utf-8")
        assert ".write_text(" not in text and "date.today()" not in text.replace("datetime.date.today()", ""), path


def test_startup_has_its_section():
    row = {"median_s": 0.1, "best_s": 0.05}
    rows = {"Python alone": {**row, "limit_s": None}, "import couloir": {**row, "limit_s": 0.5}}
    found = [{"rows": rows, "load average": 0.1, "date": "2026-01-01"}]
    lines = inference_sections.startup(found, results_page.table)
    assert lines[-1] == "| import couloir | **0.10** | 0.05 | 0.5 | 0.1 | 2026-01-01 |"
    assert inference_sections.startup([], results_page.table) == []


@pytest.mark.parametrize(
    ("date", "suffix", "takes", "said"),
    [
        ("2026-11-21", ".int8.onnx", "features", True),
        ("2026-11-29", ".int8.onnx", "chunks", True),
        ("2026-11-30", ".int8.onnx", "features", False),
        ("2026-11-21", ".onnx", "features", False),
        ("2026-11-21", ".int8.onnx", "samples", False),
    ],
)
def test_rows_of_int8_files_of_an_old_format_say_so(date, suffix, takes, said):
    precision = "int8" if "int8" in suffix else "fp32"
    row = {"takes": takes, "precision": precision, "couloir": 9.0}
    run = {"run": "r", "kind": "ctc", "data": "d", "utterances": 1, "date": date, "rows": [row]}
    lines = inference_sections.exported_models([run], results_page.table)
    assert any("have 8 bits and one scale" in line and date in line for line in lines) == said

    sides = {f"{of} batch {n}": {"rtf": 1.0, "peak_mb": 1} for of in ("couloir", "sherpa-onnx") for n in (1, 16)}
    if takes == "features":
        lines = inference_sections.onnx_speed(
            [{**sides, "model": "m", "suffix": suffix, "date": date}], results_page.table
        )
        assert any("have 8 bits and one scale" in line for line in lines) == said
