"""Restriction of a model's output to the phones of a language."""

from __future__ import annotations

import logging
import re
from importlib.resources import files
from pathlib import Path

from couloir.errors import UserError, unknown_name
from couloir.inference.restriction import Restriction, restrict
from couloir.inference.vocabulary import Vocabulary
from couloir.text.ipa import TIE, normalize
from couloir.text.languages import language_tag
from couloir.texts import read_lines, split_lines

TABLE = "inventories.tsv"
_SEPARATORS = re.compile(r"[\s,;\u060c\u061b\u3001\uff0c\uff1b]+")
_TAG = re.compile("[a-z]{2,3}(-[a-z0-9]{2,8})+")


def languages() -> dict[str, list[str]]:
    """The inventories that come with the project: ISO 639 code -> phones (with common allophones)."""
    table = files("couloir.inference").joinpath(TABLE).read_text("utf-8")
    rows = (line.split("\t") for line in split_lines(table))
    return {row[0]: row[2].split() for row in rows if not row[0].startswith("#")}


def read_inventory(source: str | Path) -> list[str]:
    """The phones of a file (separated by white space, commas or semicolons; ``#`` begins a comment) or of a language.

    A language is a code such as ``ru``, in any case and with a region or not (``en-GB``, ``zh_CN``). Raises `UserError`
    when it is neither, or an empty file.
    """
    path = Path(source)
    if not path.is_file():
        known, tag = languages(), language_tag(str(source))
        found = known.get(tag) or known.get(tag.partition("-")[0] if _TAG.fullmatch(tag) else "")
        if found:
            return found
        raise unknown_name("--inventory (no such file or language)", str(source), sorted(known))
    phones = [phone for line in read_lines(path) for phone in _SEPARATORS.split(line.split("#")[0]) if phone]
    if not any(normalize(phone) for phone in phones):
        raise UserError(f"inventory {path} names no phone")
    return phones


def restriction_to(source: str | Path, vocabulary: Vocabulary) -> Restriction:
    """The order of pieces in which only phones of an inventory are emitted, with word boundaries between them.

    Args:
        source: a file of phones, or a language's code. vocabulary: the model's pieces. A phone that they cannot spell
            is left out, and for a person's own file named in a warning.

    Raises:
        UserError: the inventory cannot be read, or none of its phones can be spelt.
    """
    spelt, missing = [], []
    for phone in read_inventory(source):
        text = normalize(phone).replace(" ", "")
        known = next((form for form in (text, text.replace(TIE, "")) if vocabulary.spell(form)), None)
        if known:
            spelt.append(known)
        else:
            missing.append(phone)
    if not spelt:
        raise UserError(f"the model has none of the phones of inventory {source}")
    if missing and Path(source).is_file():
        logging.warning("the model has no symbol for %s of inventory %s", " ".join(missing), source)
    return restrict(vocabulary, spelt)
