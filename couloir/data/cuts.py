"""One line of a lhotse manifest, checked field by field: a line that is no usable cut is a `LeftOut`, with the reason.

Nothing of a manifest is run or fetched: audio is in the tar beside it, or in one file that it names.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from couloir import limits

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHOWN_CHARS = 60
_MISSING = object()
_BEYOND_FLOATS = 1 << 1000
# Of the custom values: where lhotse says that a cut came from.
_BOOKKEEPING = ("shard_origin", "shar_epoch")


class LeftOut(Exception):
    """One cut that cannot be used; the argument says why."""

    @property
    def reason(self) -> str:
        """Why, in words that can be counted."""
        return str(self.args[0])


class InNoTar(LeftOut):
    """The audio of a cut is in a tar that is not there."""


@dataclass(frozen=True)
class Cut:
    """What is used of a cut.

    Attributes:
        id: not empty, without control characters. start, duration: s, finite.
        channel: of a recording that is a file; -1: the mean of all.
        path: the audio file; "" when the audio is in the tar beside the manifest.
        text, language, speaker: of its supervisions, "" where they say nothing.
        alignment: (symbol, start in s, duration in s) of each phone, or None.
        custom: further plain values of the cut and of its supervisions.
    """

    id: str
    start: float
    duration: float
    channel: int
    path: str = ""
    text: str = ""
    language: str = ""
    speaker: str = ""
    alignment: list[tuple[str, float, float]] | None = None
    custom: dict[str, Any] = field(default_factory=dict)

    def blob(self) -> bytes:
        """What has no fixed size, as JSON. Raises `LeftOut` for a text that is no Unicode."""
        names = ("id", "text", "path", "custom", "language", "speaker", "alignment")
        values = {name: value for name in names if (value := getattr(self, name))}
        try:
            return json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise LeftOut("a text of it is no Unicode: half of a surrogate pair stands alone") from None


def parse_line(line: bytes) -> dict[str, Any]:
    """The object that a line of a manifest holds. Raises `LeftOut` for anything else."""
    try:
        cut = json.loads(line)
    except RecursionError:
        raise LeftOut("the line is nested too deeply") from None
    except ValueError:
        raise LeftOut("the line is not JSON") from None
    if not isinstance(cut, dict):
        raise LeftOut(f"the line must be a cut, but is {shown(cut)}")
    return cut


def parse_cut(cut: dict[str, Any], has_tar: bool) -> Cut:
    """A manifest's object as a checked cut. Raises `LeftOut`.

    Args:
        has_tar: there is a tar beside the manifest, which has the audio, whatever the recording says.
    """
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut"):
        raise LeftOut(f"cuts of type {shown(kind)} are not read here")
    recording = _typed(cut, "recording", dict, {})
    _check_recording(recording)
    supervisions = _supervisions(cut)
    return Cut(
        id=cut_id(cut),
        start=_number(cut, "start", 0, limits.MAX_CUT_SECONDS),
        duration=_number(cut, "duration", 0, limits.MAX_CUT_SECONDS),
        channel=_channel(cut, recording),
        path="" if has_tar else _path(recording),
        text=" ".join(text for s in supervisions if (text := _text(s, "text"))),
        language=next((text for s in supervisions if (text := _text(s, "language"))), ""),
        speaker=next((text for s in supervisions if (text := _text(s, "speaker"))), ""),
        alignment=[item for s in supervisions for item in _phones(s)] or None,
        custom=_custom(cut, *supervisions),
    )


def cut_id(cut: dict[str, Any]) -> str:
    """The id of a cut. Raises `LeftOut`."""
    found = cut.get("id", _MISSING)
    if not isinstance(found, str) or not found or len(found) > limits.MAX_ID_CHARS or _CONTROL.search(found):
        raise _must_be("id", f"a text of 1 to {limits.MAX_ID_CHARS} characters without control characters", found)
    return found


def shown(value: object) -> str:
    """A value of JSON in a few printable characters."""
    if value is _MISSING:
        return "missing"
    if value is None or isinstance(value, (bool, float)):
        return json.dumps(value)
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def is_plain_number(value: object) -> bool:
    """Whether a value of JSON is a finite number; true and false are none."""
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int and -_BEYOND_FLOATS < value < _BEYOND_FLOATS


def _must_be(name: str, expected: str, found: object) -> LeftOut:
    return LeftOut(f"`{name}` must be {expected}, but is {shown(found)}")


def _number(values: dict[str, Any], name: str, least: float, most: float) -> float:
    found = values.get(name, _MISSING)
    if not is_plain_number(found) or not least <= found <= most:
        raise _must_be(name, f"a number from {least:g} to {most:g}", found)
    return float(found)


def _typed(values: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """A value of one type; the default where it is null or missing."""
    found = values.get(name)
    if found is None:
        return default
    if not isinstance(found, kind):
        raise _must_be(name, "an object" if kind is dict else "a list", found)
    return found


def _text(values: dict[str, Any], name: str) -> str:
    """A text, "" where it is null or missing; numbers are names of speakers, but no transcripts."""
    found = values.get(name)
    if found is None or isinstance(found, str):
        return found or ""
    if name != "text" and is_plain_number(found):
        return str(found)
    raise _must_be(name, "a text", found)


def _check_recording(recording: dict[str, Any]) -> None:
    if "sampling_rate" in recording:
        _number(recording, "sampling_rate", 1, limits.MAX_SAMPLE_RATE)
    if "num_samples" in recording:
        _number(recording, "num_samples", 0, limits.MAX_CUT_SECONDS * limits.MAX_SAMPLE_RATE)


def _channel(cut: dict[str, Any], recording: dict[str, Any]) -> int:
    """The one channel of a cut, -1 for a cut of all that its recording has."""
    found = cut.get("channel", -1)
    if isinstance(found, list) and found and all(_is_channel(channel) for channel in found):
        sources = _typed(recording, "sources", list, [])
        all_channels = [c for s in sources if isinstance(s, dict) for c in _typed(s, "channels", list, [])]
        if len(found) == 1:
            return int(found[0])
        if all_channels and any(channel not in found for channel in all_channels):
            raise LeftOut("cuts of some of a recording's channels are not read here")
        return -1
    if "channel" in cut and not _is_channel(found):
        raise _must_be("channel", f"a whole number from 0 to {limits.MAX_AUDIO_CHANNELS - 1}, or a list of them", found)
    return int(found)


def _is_channel(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limits.MAX_AUDIO_CHANNELS


def _path(recording: dict[str, Any]) -> str:
    """The file of a recording that is one file."""
    sources = _typed(recording, "sources", list, [])
    if not all(isinstance(source, dict) for source in sources):
        raise LeftOut("`sources` must be a list of objects")
    kinds = [source.get("type") for source in sources]
    if "shar" in kinds:
        raise InNoTar("its audio is in a tar, which is not beside the manifest")
    if recording.get("transforms"):
        raise LeftOut("recordings with transforms (such as speed perturbation) are not read here")
    if len(sources) != 1:
        raise LeftOut(f"the recording must be one file, but has {len(sources)} sources")
    if kinds != ["file"]:
        raise LeftOut(f"the recording must be a file, but is of type {shown(kinds[0])}: nothing is run or fetched")
    path = sources[0].get("source", _MISSING)
    if not isinstance(path, str) or not path or "\0" in path:
        raise _must_be("source", "the name of a file", path)
    return path


def _supervisions(cut: dict[str, Any]) -> list[dict[str, Any]]:
    """The supervisions of a cut, in their order in time."""
    found = _typed(cut, "supervisions", list, [])
    if not all(isinstance(supervision, dict) for supervision in found):
        raise LeftOut("`supervisions` must be a list of objects")
    return sorted(found, key=lambda s: _number(s, "start", -limits.MAX_CUT_SECONDS, limits.MAX_CUT_SECONDS))


def _phones(supervision: dict[str, Any]) -> list[tuple[str, float, float]]:
    items = _typed(_typed(supervision, "alignment", dict, {}), "phone", list, [])
    for item in items:
        sound = isinstance(item, (list, tuple)) and len(item) >= 3 and isinstance(item[0], str)
        if not (sound and is_plain_number(item[1]) and is_plain_number(item[2])):
            raise LeftOut(f"a phone of `alignment` must be [symbol, start, duration], but is {shown(item)}")
    return [(item[0], item[1], item[2]) for item in items]


def _custom(*parts: dict[str, Any]) -> dict[str, Any]:
    """Plain custom values; arrays and the like, which lhotse keeps as manifests, are not read."""
    merged: dict[str, Any] = {}
    for part in parts:
        merged.update(_typed(part, "custom", dict, {}))
    kept = {key: value for key, value in merged.items() if not isinstance(value, dict) and key not in _BOOKKEEPING}
    _check_depth([value for value in kept.values() if isinstance(value, list)], limits.MAX_NESTING)
    return kept


def _check_depth(values: list[Any], left: int) -> None:
    """Refuse what is nested so deeply that reading it might fail where less of the stack is left."""
    if not left and values:
        raise LeftOut("a value of `custom` is nested too deeply")
    for value in values:
        children = value.values() if isinstance(value, dict) else value
        _check_depth([child for child in children if isinstance(child, (list, dict))], left - 1)
