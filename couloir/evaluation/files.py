"""``recogs-*``, ``errs-*`` and ``wer-summary-*``: a decoding's results in the format of icefall's files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO

from couloir.evaluation.alignment import Pair, align, count, total
from couloir.files import atomic_write, name_of_id

Triple = tuple[str, Sequence[str], Sequence[str]]  # (utterance id, reference words, hypothesis words)

_SECTIONS = "PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:, PER-WORD STATS:"


def result_names(test_set: str, suffix: str, keys: Collection[str]) -> dict[str, str]:
    """What the files of each result are called: key -> icefall's name, ``{test_set}-{suffix}``.

    With several keys each goes before the suffix, since otherwise it would overwrite the one before it.
    """
    test_set = name_of_id(test_set)  # the name of somebody's folder
    return {key: f"{test_set}-{suffix}" if len(keys) == 1 else f"{test_set}-{key}-{suffix}" for key in keys}


def write_decoding_files(
    res_dir: str | Path, test_set: str, suffix: str, results: Mapping[str, Sequence[Triple]], score: bool = True
) -> dict[str, float]:
    """Write all three kinds of file and return the WER of each key, in percent with 2 decimals, best first.

    Without ``score`` that is ``recogs-*`` alone, and nothing is returned.

    Args:
        res_dir: folder, usually ``exp_dir/{decoding_method}``.
        test_set: name of the test set, ``suffix``: what was decoded with what (``epoch-30_avg-9``).
        results: key of the settings (``ctc-greedy-search``) -> (id, reference words, hypothesis words) triples.

    The names are those of `result_names`.
    """
    res_dir, rates = Path(res_dir), dict[str, float]()
    for key, name in result_names(test_set, suffix, results).items():
        triples = results[key]
        ordered = sorted(triples, key=lambda triple: triple[0])
        with atomic_write(res_dir / f"recogs-{name}.txt", "w") as out:
            for utterance, ref, hyp in ordered:
                out.write(f"{utterance}:\tref={list(ref)}\n{utterance}:\thyp={list(hyp)}\n")
        if not score:
            continue
        with atomic_write(res_dir / f"errs-{name}.txt", "w") as out:
            rates[key] = write_error_stats(out, ordered)
    if not score:
        return {}
    rates = dict(sorted(rates.items(), key=lambda item: item[1]))
    with atomic_write(res_dir / f"wer-summary-{name_of_id(test_set)}-{suffix}.txt", "w") as out:
        out.write("settings\tWER\n")
        out.writelines(f"{key}\t{rate}\n" for key, rate in rates.items())
    return rates


def write_error_stats(out: IO[str], results: Sequence[Triple]) -> float:
    """Write the ``errs-*`` text of (id, reference, hypothesis) words; returns the WER in percent with 2 decimals."""
    alignments = [(utterance, align(ref, hyp)) for utterance, ref, hyp in results]
    counts = total(count(pairs) for _, pairs in alignments)
    out.write(f"%WER = {counts.rate:.2f}\n")
    out.write(
        f"Errors: {counts.insertions} insertions, {counts.deletions} deletions, {counts.substitutions} substitutions, "
        f"over {counts.reference} reference words ({counts.correct} correct)\n"
    )
    out.write(f"Search below for sections starting with {_SECTIONS}\n")
    out.write("\nPER-UTT DETAILS: corr or (ref->hyp)  \n")
    out.writelines(f"{utterance}:\t{' '.join(_details(pairs))}\n" for utterance, pairs in alignments)
    _write_sections(out, Counter(pair for _, pairs in alignments for pair in pairs))
    return round(counts.rate, 2)


def _details(pairs: Sequence[Pair]) -> Iterator[str]:
    """Correct words as they are, each run of errors as one ``(a b->c)``."""
    for correct, run in groupby(pairs, key=lambda pair: pair[0] == pair[1]):
        refs, hyps = ([word for word in side if word is not None] for side in zip(*run))
        if correct:
            yield from refs
        else:
            yield f"({' '.join(refs) or '*'}->{' '.join(hyps) or '*'})"


def _write_sections(out: IO[str], pairs: Counter[Pair]) -> None:
    errors = {pair: times for pair, times in pairs.items() if pair[0] != pair[1]}
    substitutions = {f"{ref} -> {hyp}": n for (ref, hyp), n in errors.items() if ref is not None and hyp is not None}
    deletions = {str(ref): n for (ref, hyp), n in errors.items() if hyp is None}
    insertions = {str(hyp): n for (ref, hyp), n in errors.items() if ref is None}
    for title, section in (
        ("SUBSTITUTIONS: count ref -> hyp", substitutions),
        ("DELETIONS: count ref", deletions),
        ("INSERTIONS: count hyp", insertions),
    ):
        out.write(f"\n{title}\n")
        out.writelines(f"{n}   {what}\n" for n, what in sorted(((n, w) for w, n in section.items()), reverse=True))
    out.write("\nPER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp\n")
    rows = (
        (wrong_ref + wrong_hyp, word, correct, wrong_ref, wrong_hyp)
        for word, (correct, wrong_ref, wrong_hyp) in _word_stats(pairs).items()
    )
    for total_wrong, word, correct, wrong_ref, wrong_hyp in sorted(rows, reverse=True):
        out.write(f"{word}   {correct} {total_wrong} {correct + wrong_ref} {correct + wrong_hyp}\n")


def _word_stats(pairs: Counter[Pair]) -> dict[str, list[int]]:
    """Word -> times it was correct, stood in the reference and was wrong, stood in the hypothesis and was wrong."""
    stats: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for (ref, hyp), times in pairs.items():
        if ref is not None:
            stats[ref][0 if ref == hyp else 1] += times
        if hyp is not None and ref != hyp:
            stats[hyp][2] += times
    return stats
