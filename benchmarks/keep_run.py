"""Keep what a training run reached as a result file, for RESULTS.md.

    python benchmarks/keep_run.py --exp-dir demo/exp/festvox-ru --name festvox-ru-demo --machine "two CPU cores"

Reads the run directory (configuration, metrics, the decodings' report.json) and writes results/NAME-DATE.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from couloir.config import read_yaml
from couloir.errors import UserError, one_line_errors
from couloir.files import atomic_write
from couloir.texts import read_lines

RESULTS = Path(__file__).resolve().parents[1] / "results"
SHOWN = {
    "zipformer": ("encoder_dim", "num_encoder_layers", "output_downsampling_factor"),
    "loss": ("use_cr_ctc", "cr_loss_scale"),
    "augment": ("enable_spec_aug", "time_mask_ratio"),
    "data": ("max_duration",),
    "optim": ("base_lr", "lr_batches"),
    "trainer": ("time_budget_minutes", "final_decay", "batch_count_scale", "seed"),
}


def summary(exp_dir: Path) -> dict[str, Any]:
    """What a run directory says of itself. Raises `UserError` when it was not trained or not decoded."""
    config = read_yaml(exp_dir / "config.yaml")
    rows = [json.loads(line) for line in read_lines(exp_dir / "metrics.jsonl")]
    training = [row for row in rows if row["kind"] == "train"]
    reports = {path.parent.name: json.loads(path.read_text()) for path in sorted(exp_dir.glob("*/report.json"))}
    if not training or not reports:
        raise UserError(f"{exp_dir} holds no logged training or no decoding; run train.py and ctc_decode.py first")
    last = training[-1]
    return {
        "recipe": config["recipe"],
        "settings": {key: config[section][key] for section, keys in SHOWN.items() for key in keys},
        "steps": last["step"],
        "epochs": last["epoch"],
        "minutes": round(last["elapsed_s"] / 60, 1),
        "loss": round(last["tot_loss"], 4),
        "decodings": {method: report["overall"] for method, report in reports.items()},
    }


@one_line_errors
def main() -> None:
    """Parse the flags and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp-dir", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what to call the result")
    parser.add_argument("--machine", required=True, help="what it ran on, in words")
    parser.add_argument("--note", default="", help="one sentence for the table")
    args = parser.parse_args()
    date = datetime.date.today().isoformat()
    content = {"name": args.name, "date": date, "machine": args.machine, "note": args.note, **summary(args.exp_dir)}
    with atomic_write(RESULTS / f"{args.name}-{date}.json", "w") as out:
        out.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    print(f"written: results/{args.name}-{date}.json")


if __name__ == "__main__":
    raise SystemExit(main())
