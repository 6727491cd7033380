"""The lines of metrics.jsonl that a resumed run keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from couloir.training.run_dir import append_line, drop_lines_after


@pytest.mark.parametrize("name", ["plain", "a\u2028b", "a\x85b", "a\x0cb", "a\x1cb", "Öl", "\ufeff"])
def test_lines_up_to_the_step_are_kept_as_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (10, 20, 30):
        append_line(path, {"step": step, "kind": name})
    with open(path, "ab") as out:
        out.write('{"step": 5, "kind": "é'.encode()[:-1])  # the disk was full in the middle of a letter
    drop_lines_after(path, 20)
    lines = path.read_bytes().decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [{"step": step, "kind": name} for step in (10, 20)]
    assert lines[-1] == ""
