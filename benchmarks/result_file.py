"""How every benchmark keeps what it measured: a dated file under results/, with what it was measured on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from couloir.files import atomic_write

RESULTS = Path(__file__).parent / "results"


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """What a reader must know of the machine; of torch only where the program uses it."""
    facts: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} CPU cores"}
    if torch := sys.modules.get("torch"):
        facts |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        if device == "cuda":
            facts["machine"] = torch.cuda.get_device_name()
    return facts | {"load average": round(os.getloadavg()[0], 1), "python": platform.python_version()}


def save_result(path: Path, result: dict[str, Any], device: str = "cpu") -> None:
    """Write a result as JSON, with the facts of the machine that it does not give itself."""
    facts = {key: value for key, value in machine_facts(device).items() if key not in result}
    with atomic_write(path, "w") as out:
        out.write(json.dumps(result | facts, ensure_ascii=False, indent=1) + "\n")
    print(f"written: {path}")


def write_result(name: str, result: dict[str, Any], device: str = "cpu") -> None:
    """Keep a result as results/NAME-DATE.json, which `results_page.py` reads."""
    save_result(RESULTS / f"{name}-{datetime.date.today()}.json", result, device)
