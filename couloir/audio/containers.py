"""Which container a recording is in. Its first bytes say so; a name is asked only for what has no such bytes."""

from __future__ import annotations

from pathlib import PurePath

from couloir.audio import mpeg
from couloir.audio.chunks import Bytes

AUDIO_SUFFIXES = (
    ".wav", ".wave", ".rf64", ".bwf", ".w64", ".flac", ".mp3", ".mp2", ".ogg", ".oga", ".opus", ".aif", ".aiff",
    ".aifc", ".au", ".snd", ".sph", ".nist", ".caf", ".voc", ".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".webm",
    ".mka", ".mkv", ".amr", ".wma", ".g722",
)  # fmt: skip
"""What recordings that can be read are usually called: who looks for them in folders goes by these."""

_HEAD_BYTES = 1 << 16  # behind its tags, which may hold pictures

# The container is named to FFmpeg rather than guessed by it: a probing FFmpeg would also open play-lists, which may
# point anywhere.
PYAV_FORMATS = {
    "mp4": "mov", "matroska": "matroska", "amr": "amr", "asf": "asf", "aac": "aac", "g722": "g722",
    "wavpack": "wv", "ape": "ape", "tta": "tta", "wav": "wav", "ogg": "ogg", "caf": "caf", "aiff": "aiff", "au": "au",
}  # fmt: skip
"""Container -> FFmpeg's name for its reader."""

BY_LIBSNDFILE = ("wav", "rf64", "w64", "aiff", "au", "sphere", "caf", "voc", "flac", "ogg", "mp3", "")
"""What libsndfile is asked first; "" is whatever else it knows."""

_MAGIC = {
    b"RIFX": "wav", b"RF64": "rf64", b"BW64": "rf64", b"riff\x2e\x91\xcf\x11": "w64", b".snd": "au",
    b"NIST_1A": "sphere", b"caff": "caf", b"Creative Voice File": "voc", b"fLaC": "flac", b"OggS": "ogg",
    b"\x1a\x45\xdf\xa3": "matroska", b"#!AMR": "amr", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf", b"ADIF": "aac",
    b"wvpk": "wavpack", b"MAC ": "ape", b"TTA1": "tta", b"ajkg": "shorten",
}  # fmt: skip
_FORMS = {b"AIFF": "aiff", b"AIFC": "aiff"}
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_BY_SUFFIX = {
    ".g722": "g722", ".m4a": "mp4", ".mp4": "mp4", ".mov": "mp4", ".3gp": "mp4", ".aac": "aac", ".webm": "matroska",
    ".mka": "matroska", ".mkv": "matroska", ".amr": "amr", ".wma": "asf",
}  # fmt: skip
_RAW = (".raw", ".pcm", ".s16", ".s16le", ".ul", ".al", ".ulaw", ".alaw")


def container_of(content: Bytes, name: str = "") -> str:
    """The container by the first bytes of a recording behind its tags; by the suffix of ``name`` where none says it.

    "raw" is samples without a header; "" is what nothing is known of.
    """
    start = mpeg.after_id3(content)
    head = content[start : start + _HEAD_BYTES]
    if head[:4] == b"RIFF":
        return "wav" if head[8:12] == b"WAVE" else ""
    if head[:4] == b"FORM":
        return _FORMS.get(head[8:12], "")
    for magic, container in _MAGIC.items():
        if head.startswith(magic):
            return container
    if head[4:8] in _BOXES:
        return "mp4"
    if len(head) > 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if mpeg.begins(head):
        return "mp3"
    suffix = PurePath(name).suffix.lower()
    return "raw" if suffix in _RAW else _BY_SUFFIX.get(suffix, "")
