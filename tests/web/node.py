"""The page's modules, run by node."""

import json
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


def ask(*cases):
    """What the modules answer to (what, given) pairs: {"value": ...} or {"error": ...} each."""
    given = json.dumps([{"what": what, "given": value} for what, value in cases])
    done = subprocess.run(["node", HERE / "modules.mjs"], input=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
