"""The sections of RESULTS.md about decoding, from the files that the programs beside this one leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Results = list[dict[str, Any]]
Table = Callable[[list[str], Iterable[list[str]]], list[str]]
# When searches were given other rules, and which: what was measured before says so.
CHANGED_ON = "2026-11-30"
_BEST = "measured before the best path was among the sampled ones"
_OVERLAPS = "measured before hotwords that overlap followed icefall's rule, with that of `--strict-hotwords True`"
CHANGES = {
    "nbest": _BEST,
    "nbest-oracle": _BEST,
    "nbest-rescoring": _BEST,
    "attention-decoder-rescoring-no-ngram": _BEST,
    "attention-decoder-rescoring-with-ngram": _BEST,
    "fast_beam_search_nbest": _BEST,
    "fast_beam_search_nbest_LG": _BEST,
    "fast_beam_search_nbest_oracle": _BEST,
    "beam_search": "measured before candidates were chosen as icefall does, and bounded",
    "modified_beam_search, hotwords": _OVERLAPS,
    "fast_beam_search, hotwords": _OVERLAPS,
}


def _name(method: str, results: Results) -> str:
    """A method's name, with what has changed since any of ``results`` was measured."""
    old = any(result["date"] < CHANGED_ON for result in results)
    return f"{method} ({CHANGES[method]})" if old and method in CHANGES else method


def methods_section(results: Results, table: Table) -> list[str]:
    """Error rate by decoding method: methods are rows, runs are columns."""
    lines = ["## Decoding methods", ""] if results else []
    for result in results:
        runs = result["runs"]
        methods = list(dict.fromkeys(name for run in runs for name in run["methods"]))
        rows = [[_name(method, [result]), *(_rate(run["methods"].get(method)) for run in runs)] for method in methods]
        lines += [
            f"PER % on {result['name']}, {result['test_set']} (`benchmarks/method_table.py`, {result['date']}); in "
            "brackets the number of scales of language models that one was chosen from, on the dev set. Hotwords are "
            "stretches of the test set's references and as many of training. Methods with `nbest` sample paths from a "
            "posterior that `--nbest-scale` flattens. icefall's 0.5 is too flat for a hundred phones, unless the best "
            "path is one of them.", "",
            *table(["method", *(run["heads"] for run in runs)], rows), "",
        ]  # fmt: skip
    return lines


def _rate(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    chosen = f" [{row['chosen_from']}]" if row["chosen_from"] > 1 else ""
    return f"{row['per']:.2f} ({row['low']:.1f} to {row['high']:.1f}){chosen}"


def speed_section(results: Results, table: Table) -> list[str]:
    """Real-time factors by decoding method: methods are rows, models are columns."""
    if not results:
        return []
    methods = list(dict.fromkeys(name for result in results for name in result["rows"]))
    rows = [
        [_name(method, [r for r in results if method in r["rows"]])]
        + [text for result in results for text in _speed(result["rows"].get(method))]
        for method in methods
    ]
    models = [f"{result['model']} ({result['million_parameters']:.0f} M, {result['weights']})" for result in results]
    header = ["method", *(title for model in models for title in (f"RTF, {model}", "of greedy's"))]
    speech = ", ".join(f"{result['speech_s']:.0f} s on {result['machine']} ({result['date']})" for result in results)
    text = f"Encoder included, speech: {speech}. Of random weights `beam_search` is left out: blank "
    text += "is hardly ever likely there, and it takes as many prefixes in each frame as it may."
    return ["## Speed of decoding", "", text, "", *table(header, rows), ""]


def _speed(row: dict[str, Any] | None) -> tuple[str, str]:
    return ("", "") if row is None else (f"{row['rtf']:.4f}", f"{row['of_greedy']:.2f}")


def batching_section(results: Results, table: Table) -> list[str]:
    """Greedy search of a batch beside one utterance at a time, and the searches beside each other."""
    if not results:
        return []
    names = list(dict.fromkeys(name for result in results for name in result["rows"]))
    rows = [[_name(name, results), *(f"{r['rows'][name]['of_greedy']:.2f}" for r in results)] for name in names]
    models = [f"{result['settings']['preset']}, batch {result['settings']['batch']}" for result in results]
    loads = ", ".join(f"{result['load average']:.1f}" for result in results)
    return [
        "## Searching in batches", "",
        "Time of the search alone, without the encoder, in units of greedy search of the batch; random weights "
        f"(`benchmarks/decoding_search.py`; load {loads}).", "", *table(["method", *models], rows), "",
    ]  # fmt: skip


def graph_section(results: Results, table: Table) -> list[str]:
    """The large decoding graph."""
    rows = []
    for result in results:
        graph, decoding = result["graph"], result["decoding"]
        rows.append([
            f"{result['lexicon']['words']:,}", f"{result['text']['ngrams']:,}", f"{graph['arcs']:,}",
            f"{graph['states']:,}", f"{result['seconds']['LG']:.0f}", f"{result['seconds']['reading back']:.1f}",
            f"{result['peak_memory_gb']:.1f}", f"{decoding['word_error_percent']:.1f}",
            f"{decoding['rtf']['CTC']:.3f}", f"{decoding['rtf']['transducer']:.3f}",
            f"{result['load average']:.0f}", result["date"],
        ])  # fmt: skip
    header = ["words", "n-grams", "arcs", "states", "building, s", "reading, s", "peak memory, GB", "WER %",
              "search RTF, CTC", "transducer", "load", "date"]  # fmt: skip
    if not rows:
        return []
    return [
        "## Large graphs", "",
        "LG of a word list and a 3-gram (`benchmarks/lg_graph.py`), searched with simulated posteriors over phones. "
        "Wall times on two cores that were shared: mind the load.", "", *table(header, rows),
    ]  # fmt: skip
