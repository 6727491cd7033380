"""The second stage where words or characters are to be recognised: transcripts as a model learns them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from couloir.data.corpora.annotated import UNKNOWN_WORD
from couloir.data.corpora.base import Dropped, Utterance
from couloir.data.corpora.manifest import (
    dropped_path,
    fingerprint,
    is_done,
    mark_done,
    read_manifest,
    write_dropped,
    write_manifest,
)
from couloir.data.corpora.stages import manifest_path, reasons, transcripts_path
from couloir.data.corpora.textgrid import UNKNOWN
from couloir.errors import UserError
from couloir.progress import log
from couloir.text.units import Unit


def make_spelling(corpus: str, data_dir: Path, unit: Unit, lower_case: bool = True) -> None:
    """Bring the words of a corpus into the form that is learned; what has none, or one that is not known, is dropped.

    Raises:
        UserError: no utterance has words.
    """
    source, out = manifest_path(data_dir, corpus), transcripts_path(data_dir, corpus, unit)
    inputs = fingerprint(unit.name, lower_case, files=[source])
    if is_done(out, inputs):
        log(f"{corpus}: {unit.plural} are there already")
        return
    items = [_spelt(utterance, unit, lower_case) for utterance in read_manifest(source)]
    kept = [item for item in items if isinstance(item, Utterance)]
    dropped = [item for item in items if isinstance(item, Dropped)]
    write_dropped(dropped_path(data_dir, unit.plural, corpus), dropped)
    if not kept:
        raise UserError(f"no utterance of {corpus} has {unit.plural}; is it transcribed in phones alone?")
    write_manifest(out, kept)
    mark_done(out, inputs)
    log(f"{corpus}: {len(kept)} utterances have {unit.plural}; {reasons(dropped)}")


def _spelt(utterance: Utterance, unit: Unit, lower_case: bool) -> Utterance | Dropped:
    unknown = next((word for word in utterance.text.split() if word.lower() in UNKNOWN), None)
    if unknown is not None:
        return Dropped(utterance.id, UNKNOWN_WORD, unknown)
    spelling = unit.prepare(utterance.text, utterance.language, lower_case)
    if not spelling:
        return Dropped(utterance.id, f"no {unit.plural}", repr(utterance.text))
    return dataclasses.replace(utterance, spelling=spelling)
