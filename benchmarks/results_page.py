"""Write RESULTS.md from the result files of results/ and benchmarks/results/: nothing in it is typed by hand.

python benchmarks/results_page.py           # write it        --check: fail if it is not up to date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import inference_sections
from results_decoding import batching_section, graph_section, methods_section, speed_section

from couloir.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RUNS, BENCHMARKS = ROOT / "results", ROOT / "benchmarks" / "results"
MARKS = [
    ["plain convolutional CTC, 0.92 M parameters", "18 min on two busy cores", "14.9"],
    ["Zipformer of the `zipformer` package's modules, 1.62 M, plain CTC", "20 min on two idle cores", "9.1"],
    ["the same with CR-CTC", "20 min on two idle cores", "9.3"],
]


def table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *("| " + " | ".join(r) + " |" for r in rows)]


def newest(folder: Path, stem: str) -> list[dict[str, Any]]:
    """The newest file of each name that begins with ``stem`` (files are called NAME-YYYY-MM-DD.json), with its date."""
    by_name: dict[str, Path] = {}
    for path in sorted(folder.glob(f"{stem}*.json")):
        by_name[path.stem[:-11]] = path
    return [{"date": path.stem[-10:], **json.loads(path.read_text())} for path in by_name.values()]


def phone_recognition() -> list[str]:
    """PER and PFER of the kept training runs, beside the published marks."""
    rows = []
    for run in newest(RUNS, ""):
        for method, overall in run["decodings"].items():
            pfer = overall["pfer"]
            rows.append([
                run["name"], "CR-CTC" if run["settings"]["use_cr_ctc"] else "CTC", method,
                f"{run['minutes']:.1f} min, {run['machine']}", f"{run['epochs']}", f"{run['steps']}",
                f"**{overall['rate']:.2f}** ({overall['low']:.1f} to {overall['high']:.1f})",
                f"{pfer['utterance']:.2f}", f"{pfer['phones']:.2f}", run["date"], run["note"],
            ])  # fmt: skip
    header = ["run", "loss", "search", "training", "epochs", "batches", "PER % (95 %)", "PFER (utterance)",
              "PFER % (phones)", "date", "note"]  # fmt: skip
    return [
        "## Phone recognition", "",
        "festvox-ru: one speaker, gold phone labels, 60 held-out utterances (5,156 phones).", "",
        *table(header, rows), "", "Marks that were measured before this project, on the same corpus:", "",
        *table(["model", "training", "PER %"], MARKS),
    ]  # fmt: skip


def training_step() -> list[str]:
    """Speed of a training step beside the peer's."""
    rows = []
    for result in newest(BENCHMARKS, "train_step-"):
        for row in result["rows"]:
            rows.append([
                row["preset"], result["machine"], result["settings"]["clock"], f"{row['batch_count']:.0f}",
                f"{row['ours_ms']:.0f}", f"{row['peer_ms']:.0f}", f"**{row['ratio']:.2f}**", result["date"],
            ])  # fmt: skip
    header = ["preset", "machine", "clock", "batch count", "ours, ms", "`zipformer` 0.1.3, ms", "ratio", "date"]
    return ["## Training step", "", "Forward, CTC, backward and ScaledAdam, in turns in one process "
            "([where the time goes](benchmarks/train_step.md)).", "", *table(header, rows)]  # fmt: skip


def filterbank() -> list[str]:
    """Speed of the features beside lhotse's and Kaldi's."""
    lines = ["## Filterbank", ""]
    for result in newest(BENCHMARKS, "fbank-"):
        speeds = [
            [name, f"{value:,}"] for name, value in result.items() if name.startswith(("couloir", "lhotse", "kaldi"))
        ]
        lines += [f"Seconds of speech per second on one core ({result['date']}, load {result['load average']}). "
                  f"Greatest difference from Kaldi's: {result['greatest difference from kaldi-native-fbank']:.1e}.",
                  "", *table(["program", "x real time"], speeds)]  # fmt: skip
    return lines


def shar_reading() -> list[str]:
    """Speed of reading beside lhotse's."""
    lines = ["## Reading Shar", ""]
    for result in newest(BENCHMARKS, "shar_reading-"):
        rows = [[name, f"{row['median_s']:.2f}", f"{row['of_lhotse']:.2f}"] for name, row in result["rows"].items()]
        lines += [f"{result['audio_hours']:.2f} h of speech, index and decoding, one process ({result['date']}).", "",
                  *table(["reader", "s, median", "of lhotse's time"], rows)]  # fmt: skip
    return lines


def feature_errors() -> list[str]:
    """Speed of PFER beside panphon's."""
    lines = ["## Phonetic feature error rate", ""]
    for result in newest(BENCHMARKS, "pfer-"):
        lines += [f"{result['couloir']:,.0f} pairs of 50 phones a second, panphon {result['panphon']:.0f}: "
                  f"{result['ratio']:.0f} x; difference {result['difference']:.0e} ({result['date']})."]  # fmt: skip
    return lines


def alignment() -> list[str]:
    """Distance of boundaries from festvox-ru's gold ones."""
    rows = []
    for result in newest(BENCHMARKS, "alignment-"):
        for name in ("alignment", "transcription"):
            row = result[name]
            rows.append([
                name, f"{row['boundaries']:,}", f"**{row['median_ms']:.0f}**", f"{row['mean_ms']:.1f}",
                f"{row['within_20_ms_percent']:.1f}", result["date"],
            ])  # fmt: skip
    header = ["boundaries of", "number", "median error, ms", "mean, ms", "within 20 ms, %", "date"]
    return ["## Time stamps", "", "Against festvox-ru's gold phone boundaries, held-out utterances.", "",
            *table(header, rows)]  # fmt: skip


def confidence() -> list[str]:
    """How often a phone is right, by its confidence."""
    lines = ["## Confidence", ""]
    for result in newest(BENCHMARKS, "confidence-"):
        rows = [
            [f"{row['above']} to {row['to']}", str(row["phones"]), f"{row['confidence']:.3f}", f"{row['accuracy']:.3f}"]
            for row in result["phones"]
        ]
        lines += [f"Expected calibration error {result['ece']} ({result['date']}).", "",
                  *table(["confidence", "phones", "mean confidence", "share that is right"], rows)]  # fmt: skip
    return lines


def transducer_loss() -> list[str]:
    """Speed and memory of the transducer losses beside fast_rnnt's."""
    times, memory = list[list[str]](), list[list[str]]()
    for result in newest(BENCHMARKS, "rnnt_loss-"):
        for case, row in result.items():
            if not isinstance(row, dict) or "fast_rnnt" not in row:
                continue
            unit, rows = ("median_ms", times) if "median_ms" in row["couloir"] else ("peak_mb", memory)
            ours, peer = row["couloir"][unit], row["fast_rnnt"][unit]
            rows.append([case, f"{ours:.0f}", f"{peer:.0f}", f"**{ours / peer:.2f}**", result["date"]])
    return ["## Transducer losses", "", "Forward and backward on two CPU threads, in turns in one process.", "",
            *table(["case", "ours, ms", "fast_rnnt 1.3, ms", "ratio", "date"], times), "",
            "Peak memory beyond the logits, float32, the logits' gradient included.", "",
            *table(["case", "ours, MB", "fast_rnnt 1.3, MB", "ratio", "date"], memory)]  # fmt: skip


def exported_models() -> list[str]:
    """PER of exported files."""
    return inference_sections.exported_models(newest(BENCHMARKS, "export_accuracy-"), table)


def listening() -> list[str]:
    """PER with a penalty on blank and several passes."""
    return inference_sections.listening(newest(BENCHMARKS, "listening-"), table)


def long_recordings() -> list[str]:
    """Long recordings in windows and uncut."""
    return inference_sections.long_recordings(newest(BENCHMARKS, "long_recording-"), table)


def onnx_speed() -> list[str]:
    """Speed of exported files beside sherpa-onnx."""
    return inference_sections.onnx_speed(newest(BENCHMARKS, "onnx_inference-"), table)


def torch_speed() -> list[str]:
    """Speed of inference in PyTorch."""
    return inference_sections.torch_speed(newest(BENCHMARKS, "torch_inference-"), table)


def gpu_run() -> list[str]:
    """What `gpu.py` measured."""
    return inference_sections.gpu_run(newest(BENCHMARKS, "gpu-"), table)


def two_commands() -> list[str]:
    """The README's commands as a newcomer runs them."""
    return inference_sections.two_commands(newest(BENCHMARKS, "two_commands-"), table)


def startup() -> list[str]:
    """How long programs take to start."""
    return inference_sections.startup(newest(BENCHMARKS, "startup-"), table)


def decoding() -> list[str]:
    """Error rates by decoding method, their speed, and a large graph: what there is of it."""
    sections = [
        methods_section(newest(BENCHMARKS, "decoding_methods-"), table),
        speed_section(newest(BENCHMARKS, "decoding_rtf-"), table),
        batching_section(newest(BENCHMARKS, "decoding_search-"), table),
        graph_section(newest(BENCHMARKS, "lg_graph-"), table),
    ]
    return [line for section in sections for line in section]


SECTIONS: tuple[Callable[[], list[str]], ...] = (
    phone_recognition, two_commands, decoding, listening, long_recordings, exported_models, onnx_speed, torch_speed,
    startup, gpu_run, alignment, confidence, training_step, filterbank, shar_reading, feature_errors, transducer_loss,
)  # fmt: skip


def page() -> str:
    """The whole of RESULTS.md."""
    head = ["# Results", "", "Made by `python benchmarks/results_page.py` from the files in `results/` and "
            "`benchmarks/results/`. The machines are shared and noisy: read ratios, not times."]  # fmt: skip
    if not newest(BENCHMARKS, "gpu-"):
        head += [
            "",
            "Nothing here ran on a GPU yet; `python benchmarks/gpu.py` measures in 8 minutes what waits for one.",
        ]
    filled = (lines for lines in (section() for section in SECTIONS) if lines)
    return "\n".join(head + [line for lines in filled for line in ["", *lines]]) + "\n"


def main() -> int:
    """Write the page, or with --check compare it with what is there."""
    target = ROOT / "RESULTS.md"
    if "--check" in sys.argv:
        return int(target.read_text(encoding="utf-8") != page())
    with atomic_write(target, "w") as out:
        out.write(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
