"""What the tree has one of stays one: the log's set-up, the progress bar, the names of flags, cores and devices."""

import re

import pytest
from programs import ROOT

FOLDERS = ("couloir", "zipformer_crctc", "zipformer_transducer", "local", "inference", "benchmarks", "egs")
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
}


@pytest.mark.parametrize(
    ("pattern", "homes"),
    [
        (r"logging\.basicConfig|logging\.Formatter\(|logging\.FileHandler\b", {"couloir/progress.py"}),
        (r"from rich\.progress|from tqdm|import tqdm|\\x1b\[K", {"couloir/progress.py"}),
        (r"\"--\" ?\+|f\"--\{\w+\.replace", {"couloir/config.py"}),
        (r"sched_getaffinity|os\.cpu_count\(\)", {"couloir/machine.py", "benchmarks/result_file.py"}),
        (r"def pick_device|torch\.cuda\.is_available\(\) else", {"couloir/machine.py"}),
    ],
)
def test_it_is_made_in_one_place(pattern, homes):
    found = {path for path, text in SOURCES.items() if re.search(pattern, text)}
    assert found == homes
