"""A person's table of recordings and transcripts: TSV or CSV."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from couloir.data.corpora.base import NO_TRANSCRIPT, UNREADABLE, Dropped, Utterance
from couloir.data.corpora.config import SPLITS, split_of
from couloir.data.corpora.keyed import refuse_repeated
from couloir.data.corpora.places import beside
from couloir.data.corpora.times import seconds, span
from couloir.data.split_names import kind_of
from couloir.errors import UserError, must_be
from couloir.limits import MAX_LINE_CHARS
from couloir.text.languages import language_tag
from couloir.texts import iterate_lines, read_text, split_lines

# Field -> headings that mean it, the likelier first; those of Common Voice and NeMo are among them.
COLUMNS = {
    "audio": ("path", "audio", "file", "wav", "filename", "audio_path", "audio_file", "audio_filepath"),
    "text": ("text", "transcript", "sentence", "transcription", "words"),
    "ipa": ("ipa", "phones", "phonemes"),
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "client_id", "speaker_id", "spk"),
    "id": ("id", "utt", "utterance", "utterance_id"),
    "split": ("split", "subset", "partition"),
    "start": ("start", "start_time", "begin", "begin_time", "onset", "offset", "start_s", "tmin", "xmin"),
    "end": ("end", "end_time", "stop", "finish", "end_s", "tmax", "xmax"),
    "duration": ("duration", "dur", "duration_s"),
}
TABLES = (".tsv", ".csv")
_OTHER_UNIT = re.compile(
    r"(start|begin|onset|offset|end|stop|duration|dur)(_?time)?[ _(\[]*(ms|msec|milliseconds?|samples?|frames?)[)\]]*"
)
_QUOTED = re.compile(r'\s*"(?:[^"]|"")*"\s*')
_DELIMITERS = ("\t", ",", ";")


@dataclass(frozen=True)
class _Row:
    """One record: the number of its first line, and its cells."""

    line: int
    cells: list[str]


def read_table(path: Path, language: str) -> Iterator[Utterance | Dropped]:
    """A TSV or CSV. The first line names the columns (`COLUMNS`); without names they are path and transcript.

    Paths are relative to the table or, as in Common Voice, to ``clips`` beside it. Fields are separated by tabs, or by
    commas or semicolons, where quotes may hold these and line breaks. Rows of another width than the first are left out
    by name, and so are those whose times, split or path cannot be.

    Raises:
        UserError: it is not UTF-8, has no column of paths, none of transcripts, times in another unit than seconds, or
            an id twice.
    """
    rows = _rows(path, read_text(path))
    places = _columns(path, [cell.strip().lower() for cell in rows[0].cells] if rows else [])
    width = len(rows[0].cells)
    if "audio" in places:
        rows = rows[1:]
    else:
        places = {"audio": 0, "text": 1}
    records = [(row, {f: row.cells[at].strip() for f, at in places.items() if at < len(row.cells)}) for row in rows]
    whole = [(row, fields) for row, fields in records if len(row.cells) == width]
    ids = _ids([fields for _, fields in whole])
    refuse_repeated(path, "id", ((row.line, id) for (row, _), id in zip(whole, ids)))
    names = {row.line: id for (row, _), id in zip(whole, ids)}
    for row, fields in records:
        name = names.get(row.line, fields.get("id") or PurePath(fields.get("audio", "")).stem or f"line-{row.line}")
        try:
            if row.line not in names:
                raise must_be(f"line {row.line} of {path}", f"{width} fields wide", len(row.cells))
            found = _utterance(path.parent, name, fields, language)
            missing = Dropped(name, NO_TRANSCRIPT, f"line {row.line} of {path}")
            yield found if found.text or found.ipa else missing
        except UserError as error:
            yield Dropped(name, UNREADABLE, str(error))


def split_tables(folder: Path) -> list[Path]:
    """The tables in a folder whose names say a split: ``train.tsv``, ``dev.tsv``, ``test.tsv`` of Common Voice."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES and kind_of(path.stem))
    return [path for path in found if path.is_file() and _has_columns(path)]


def _has_columns(path: Path) -> bool:
    try:
        first = next(iterate_lines(path), "")
        return bool(_columns(path, [cell.strip().lower() for cell in first.split(_delimiter(first))]))
    except UserError:
        return False


def _rows(path: Path, text: str) -> list[_Row]:
    """The records that are not blank."""
    first = next((line for line in split_lines(text) if line.strip()), "")
    if re.fullmatch(r"sep=.", first.strip()):  # Excel's line for itself
        text = text[text.index(first) + len(first) :]
        first = next((line for line in split_lines(text) if line.strip()), "")
    delimiter = _delimiter(first)
    if delimiter == "\t":  # quotes hold no tabs or line breaks in a TSV
        lines = enumerate(split_lines(text), 1)
        rows = [_Row(number, [_unquoted(cell) for cell in line.split("\t")]) for number, line in lines]
    else:
        rows = list(_csv_rows(path, text, delimiter))
    return [row for row in rows if any(cell.strip() for cell in row.cells)]


def _unquoted(cell: str) -> str:
    """A cell as a spreadsheet writes it that holds quotes."""
    return cell.strip()[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[_Row]:
    before = csv.field_size_limit(MAX_LINE_CHARS)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        line = 1
        for cells in reader:
            yield _Row(line, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"line {line} of {path} cannot be read ({error})") from None
    finally:
        csv.field_size_limit(before)


def _delimiter(first: str) -> str:
    """What separates the fields of the first line: that by which columns are known, else what is in it."""
    known = {name for names in COLUMNS.values() for name in names}
    split = {
        mark: next(csv.reader([first], delimiter=mark), []) if mark != "\t" else first.split(mark)
        for mark in _DELIMITERS
    }
    score = {mark: sum(cell.strip().lower() in known for cell in cells) for mark, cells in split.items()}
    best = max(_DELIMITERS, key=lambda mark: score[mark])
    if score[best] > 1:
        return best
    return next((mark for mark in _DELIMITERS if len(split[mark]) > 1), ",")


def _columns(path: Path, heading: Sequence[str]) -> Mapping[str, int]:
    """Field -> its column; none where the first line has no names, and is path and transcript."""
    wrong = next((name for name in heading if _OTHER_UNIT.fullmatch(name)), None)
    if wrong:
        raise must_be(f"column {wrong} of {path}", "in seconds", "in another unit", "divide it, and call it start, end")
    counts = Counter(heading)
    places = {}
    for field, names in COLUMNS.items():
        name = next((name for name in names if name in counts), None)
        if name is not None:
            if counts[name] > 1:
                raise must_be(f"column {name} of {path}", "there once", f"there {counts[name]} times")
            places[field] = heading.index(name)
    if "audio" in places and places.keys() & {"text", "ipa"}:
        return places
    if "audio" not in places and len(heading) == 2:
        return {}
    shown = ", ".join(heading)[:200]
    raise must_be(f"the first line of {path}", "names of columns, path and text among them", shown)


def _ids(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The id of each row: its own, else its recording's name, with folders or times where that is not enough."""
    paths = [PurePath(fields["audio"].replace("\\", "/")) for fields in rows]
    stems: dict[str, set[PurePath]] = {}
    for path in paths:
        stems.setdefault(path.stem, set()).add(path)
    return [fields.get("id") or _id(path, fields, len(stems[path.stem]) > 1) for path, fields in zip(paths, rows)]


def _id(path: PurePath, fields: Mapping[str, str], shared: bool) -> str:
    name = "-".join(part for part in path.with_suffix("").parts if part not in ("/", "..")) if shared else path.stem
    return "-".join([name, *(fields[field] for field in ("start", "end", "duration") if fields.get(field))])


def _utterance(folder: Path, id: str, fields: Mapping[str, str], language: str) -> Utterance:
    """The utterance of a row. Raises `UserError`."""
    if not fields["audio"]:
        raise must_be(f"the path of {id}", "given", "missing")
    start, duration = _times(id, fields)
    return Utterance(
        id,
        str(beside(folder, fields["audio"])),
        " ".join(split_lines(fields.get("text", ""))),
        language_tag(fields.get("language", "")) or language,
        fields.get("speaker", ""),
        ipa=fields.get("ipa", ""),
        start=start,
        duration=duration,
        split=_split(id, fields.get("split", "")),
    )


def _times(id: str, fields: Mapping[str, str]) -> tuple[float | None, float | None]:
    """Start and duration of a part of a recording; None of a whole one, and of an end that is the recording's."""
    given = {
        field: seconds(fields[field], f"{field} of {id}") for field in ("start", "end", "duration") if fields.get(field)
    }
    if not given:
        return None, None
    start, end, duration = given.get("start", 0.0), given.get("end"), given.get("duration")
    if end is None and duration is not None:
        end = None if duration == -1 else start + duration
    elif end is not None and duration is not None and abs(start + duration - end) > 0.01 and end != -1:
        raise must_be(f"the duration of {id}", f"{end - start:g} s, from its start to its end", f"{duration:g} s")
    return span(start, end, id)


def _split(id: str, name: str) -> str:
    found = split_of(name)
    if name and not found:
        raise must_be(f"split of {id}", f"one of {', '.join(SPLITS)}, or dev-NAME, test-NAME", repr(name))
    return found
