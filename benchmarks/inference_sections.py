"""Sections of RESULTS.md about models that leave the house: what exporting costs, what listening longer gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Table = Callable[..., list[str]]
SEVEN_BITS_SINCE = "2026-11-30"
"""From this day on int8 files of features and of streaming have 7 bits by column (docs/export.md)."""


def of_old_format(result: dict[str, Any], has_int8: bool) -> list[str]:
    """What is to be said below a table of int8 files that were made before."""
    if not has_int8 or result["date"] >= SEVEN_BITS_SINCE:
        return []
    return [
        "", f"int8 files of features or chunks of {result['date']} have 8 bits and one scale for a matrix; those "
        "written now have 7 bits and a scale for each column "
        "([how they compare](docs/export.md#how-the-format-was-chosen)).",
    ]  # fmt: skip


def exported_models(results: list[dict[str, Any]], table: Table) -> list[str]:
    """PER of each run's files in every precision."""
    lines = ["## Exported models", ""]
    header = ["takes", "precision", "MB", "largest difference of log-probabilities", "PER %", "PER %, sherpa-onnx"]
    for result in results:
        rows = [
            [row["takes"], row["precision"], *(str(row.get(key, "")) for key in ("megabytes", "difference")),
             f"**{row['couloir']:.2f}**", f"{row['sherpa_onnx']:.2f}" if "sherpa_onnx" in row else ""]
            for row in result["rows"]
        ]  # fmt: skip
        lines += [f"Run {result['run']}, {result['kind']}, {result['data']}, {result['utterances']} utterances, greedy "
                  f"search ({result['date']}).", "", *table(header, rows)]  # fmt: skip
        integers = any(row["precision"] == "int8" and row["takes"] != "samples" for row in result["rows"])
        lines += [*of_old_format(result, integers), ""]
    return lines[:-1]


def listening(results: list[dict[str, Any]], table: Table) -> list[str]:
    """PER by the number of passes, without and with a penalty on blank that was chosen on dev."""
    lines = ["## Blank penalty and passes", ""]
    header = ["passes", "PER %, dev", "PER %, test", "penalty (best on dev)", "PER %, dev", "PER %, test"]
    for result in results:
        rows = [
            [str(row["passes"]), *(f"{row[key]:.2f}" for key in ("dev", "test")), f"{row['penalty']:g}",
             f"{row['dev_with_penalty']:.2f}", f"**{row['test_with_penalty']:.2f}**"]
            for row in result["rows"]
        ]  # fmt: skip
        counts = " and ".join(str(count) for count in result["utterances"].values())
        lines += [f"Run {result['run']}, greedy search, {counts} utterances ({result['date']}).", ""]
        lines += [*table(header, rows), ""]
    return lines[:-1]


def long_recordings(results: list[dict[str, Any]], table: Table) -> list[str]:
    """Recordings in windows beside uncut, and each utterance by itself."""
    lines = ["## Long recordings", ""] if results else []
    header = ["minutes", "PER %, each utterance alone", "PER %, uncut", "PER %, windows",
              "edits between the two, of tokens", "within 2 s of a seam (by chance)", "peak memory, uncut, MB",
              "windows, MB", "RTF, uncut", "windows"]  # fmt: skip
    for result in results:
        rows = []
        for row in result["rows"]:
            windows, uncut = row["windows"], row.get("uncut")
            rows.append([
                f"{row['minutes']:g}", f"{row['alone']['per']:.2f}", f"{uncut['per']:.2f}" if uncut else "",
                f"**{windows['per']:.2f}**",
                f"{windows['edits']} of {uncut['tokens']}" if uncut else "",
                f"{windows['near']} ({windows['by_chance']})" if uncut else "",
                f"{uncut['peak_mb']}" if uncut else "", f"{windows['peak_mb']}",
                f"{uncut['rtf']:.4f}" if uncut else "", f"{windows['rtf']:.4f}",
            ])  # fmt: skip
        lines += [
            f"Run {result['run']}, PyTorch on {result['threads']} CPU thread, windows of 30 s that share 4 s; one file "
            "of all utterances in turn, the test set's first, then dev's and training's: compare along a row "
            f"(`benchmarks/long_recording.py`, {result['date']}).", "", *table(header, rows), "",
        ]  # fmt: skip
    return lines[:-1]


def onnx_speed(results: list[dict[str, Any]], table: Table) -> list[str]:
    """Speed and memory of exported models beside sherpa-onnx."""
    rows = []
    for result in results:
        for batch in (1, 16):
            ours, peer = (result[f"{runtime} batch {batch}"] for runtime in ("couloir", "sherpa-onnx"))
            rows.append([
                result["model"].split("/")[-1], result["suffix"].removesuffix(".onnx").removeprefix(".") or "fp32",
                str(batch), f"{ours['rtf']:.4f}", f"{peer['rtf']:.4f}", f"**{peer['rtf'] / ours['rtf']:.2f}**",
                f"{ours['peak_mb']:.0f}", f"{peer['peak_mb']:.0f}", result["date"],
            ])  # fmt: skip
    header = ["model", "precision", "batch", "RTF", "RTF, sherpa-onnx", "times as fast", "peak memory, MB",
              "sherpa-onnx, MB", "date"]  # fmt: skip
    if not rows:
        return []
    text = (
        "From samples to tokens on two CPU threads, features included, in turns; the best of several rounds "
        "(`benchmarks/onnx_inference.py`)."
    )
    old = next((note for r in results if (note := of_old_format(r, "int8" in r["suffix"]))), [])
    return ["## Inference of exported models", "", text, "", *table(header, rows), *old]


def startup(results: list[dict[str, Any]], table: Table) -> list[str]:
    """How long programs take to start, beside what the project asks of them."""
    rows = [
        [name, f"**{row['median_s']:.2f}**", f"{row['best_s']:.2f}", f"{row['limit_s']:g}" if row["limit_s"] else "",
         str(result["load average"]), result["date"]]
        for result in results for name, row in result["rows"].items()
    ]  # fmt: skip
    if not rows:
        return []
    text = "From the start of a process to its end, in turns (`benchmarks/startup.py`)."
    return ["## Start-up", "", text, "", *table(["what", "s, median", "s, best", "at most, s", "load", "date"], rows)]


def two_commands(results: list[dict[str, Any]], table: Table) -> list[str]:
    """The README's commands, from a fresh clone and an empty home."""
    rows = []
    for command, row in (results[-1]["rows"] if results else {}).items():
        came_out = "; ".join(f"{name}: {rate:.2f} %" for name, rate in row["per"].items()) or row["tests"]
        tests = f", {row['tests_s']} of them the tests" if row["tests_s"] else ""
        rows.append([f"`{command}`", f"**{row['wall_s']}**{tests}", str(row["limit_s"] or ""),
                     str(row["largest_process_mb"]), came_out, row["commit"], row["date"]])  # fmt: skip
    header = ["command", "s with set-up", "asked, s", "largest process, MB", "what came out (PER)", "commit", "date"]
    text = (
        "From a fresh clone with an empty home and nothing installed, set-up included (`benchmarks/two_commands.py`)."
    )
    return ["## The commands", "", text, "", *table(header, rows)] if rows else []


def torch_speed(results: list[dict[str, Any]], table: Table) -> list[str]:
    """Speed of inference in PyTorch, by mode and batch."""
    rows = [
        [result["preset"], result["device"], result["amp"], mode, batch, f"{row['x_real_time']:,.0f}",
         f"{row['ms']:.1f}", f"{row['peak_mb']:,}", result["date"]]
        for result in results for batch, modes in result["rows"].items() for mode, row in modes.items()
    ]  # fmt: skip
    header = ["model", "device", "amp", "mode", "batch", "x real time", "ms", "peak memory, MB", "date"]
    if not rows:
        return []
    text = "CTC, from samples to tokens, features included (`benchmarks/torch_inference.py`)."
    return ["## Inference in PyTorch", "", text, "", *table(header, rows)]


GPU_FACTS = ("ours_ms", "peer_ms", "ratio", "median_ms", "peak_MiB", "x_real_time", "largest_difference")


def gpu_run(found: list[dict[str, Any]], table: Table) -> list[str]:
    """One run of `gpu.py`: how each part ended, and its figures."""
    lines = []
    for run in found:
        rows = [
            [name, row["what"], row["ended"], "; ".join(_figures(row.get("result", {})))]
            for name, row in run["rows"].items()
        ]
        lines += ["## On a GPU", "", f"`python benchmarks/gpu.py` on {run['machine']} ({run['date']}).", "",
                  *table(["part", "what", "ended", "figures"], rows)]  # fmt: skip
    return lines


def _figures(value: Any, path: str = "") -> list[str]:
    """The figures within a part's table, each with the names on the way to it."""
    if isinstance(value, list):
        return [text for row in value for text in _figures(row, str(row.get("batch_count", path)))]
    texts = []
    for key, inner in value.items():
        if isinstance(inner, (dict, list)):
            texts += _figures(inner, path if key == "rows" else f"{path} {key}".strip())
        elif key in GPU_FACTS:
            texts.append(f"{path} {key} {inner:.3g}".strip())
    return texts
