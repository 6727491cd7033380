"""festvox-ru: 620 sentences by one Russian speaker with hand-style phone labels (1.66 h, 16 kHz, BSD-like).

The voice's own phone table (Zakharov's description of Russian) makes stressed vowels long, first-degree reduced
ones short, second-degree reduced ones shortest; the IPA symbols follow its height and backness columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from couloir.data.corpora.base import DebianCorpus, Phone, Utterance
from couloir.errors import UserError
from couloir.texts import read_lines

# Label -> IPA, one to one, and each symbol is one segment: so PER over IPA segments is PER over gold labels.
# The affricates keep their tie because /ts/ across a boundary occurs too and is another pair of labels.
VOWELS = {
    "aa": "aː", "a": "ɐ", "ay": "ə", "ae": "ɘ",  # ay after hard consonants, ae after soft ones
    "ee": "ɛː", "e": "e", "ii": "iː", "i": "ɪ", "oo": "oː",
    "uu": "uː", "u": "u", "ur": "ʊ", "yy": "ɨː", "y": "ɨ",
}  # fmt: skip
CONSONANTS = {
    "p": "p", "b": "b", "t": "t", "d": "d", "k": "k", "g": "g", "f": "f", "v": "v", "s": "s", "z": "z",
    "h": "x", "m": "m", "n": "n", "l": "l", "r": "r",
}  # fmt: skip
SOFT = {label + label: symbol + "ʲ" for label, symbol in CONSONANTS.items()}  # pp, bb, ... rr
SIBILANTS = {"c": "t͡s", "ch": "t͡ɕ", "sh": "ʂ", "zh": "ʐ", "sch": "ɕː", "j": "j"}
IPA = {**VOWELS, **CONSONANTS, **SOFT, **SIBILANTS}
SILENCES = ("pau", "ssil", "#")

_PROMPT = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')


class FestvoxRu(DebianCorpus):
    """The Russian voice of Festival."""

    name = "festvox-ru"
    summary = "Russian, 1 speaker, 1.66 h of sentences with gold phones and their times (178 MB)"
    packages = ("festvox-ru",)
    members = r"msu_ru_nsh_clunits/(etc/txt\.done\.data|lab/.*\.lab|wav/.*\.wav)$"

    def utterances(self, download_dir: Path) -> Iterator[Utterance]:
        """One per prompt. The ``+`` that marks stress before a vowel is dropped from the text."""
        voice = self.folder(download_dir) / "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
        for name, text in _PROMPT.findall((voice / "etc/txt.done.data").read_text(encoding="utf-8")):
            phones = read_labels(voice / f"lab/{name}.lab")
            yield Utterance(name, str(voice / f"wav/{name}.wav"), text.replace("+", ""), "ru", "nsh", phones)


def read_labels(path: Path) -> tuple[Phone, ...]:
    """Phones of a label file with lines ``END_TIME 125 LABEL``; silences are left out.

    Raises `UserError` for a label that the table does not have.
    """
    phones, start = [], 0.0
    for line in read_lines(path):
        fields = line.split()
        if len(fields) != 3:
            continue
        end, label = float(fields[0]), fields[2]
        if label not in SILENCES:
            if label not in IPA:
                raise UserError(f"{path} has the unknown label `{label}`; known: {' '.join(IPA)}")
            phones.append(Phone(IPA[label], round(start, 4), round(end - start, 4)))
        start = end
    return tuple(phones)
