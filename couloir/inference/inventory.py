"""Restriction of a model's output to the phones of a language."""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path

from couloir.errors import UserError, unknown_name
from couloir.inference.restriction import Restriction, restrict
from couloir.inference.vocabulary import Vocabulary
from couloir.text.ipa import TIE, normalize

TABLE = "inventories.tsv"


def languages() -> dict[str, list[str]]:
    """The inventories that come with the project: ISO 639 code -> phones (with common allophones)."""
    rows = (line.split("\t") for line in files("couloir.inference").joinpath(TABLE).read_text("utf-8").splitlines())
    return {row[0]: row[2].split() for row in rows if not row[0].startswith("#")}


def read_inventory(source: str | Path) -> list[str]:
    """The phones of a file (separated by white space, ``#`` begins a comment) or of a language's code.

    Raises `UserError` when it is neither, or an empty file.
    """
    path = Path(source)
    if not path.is_file():
        known = languages()
        if str(source) in known:
            return known[str(source)]
        raise unknown_name("--inventory (no such file or language)", str(source), sorted(known))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, OSError):
        raise UserError(f"inventory {path} must be a UTF-8 text of phones separated by spaces or lines") from None
    phones = [phone for line in lines for phone in line.split("#")[0].split()]
    if not phones:
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
