"""Corpora by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from couloir.config import from_mapping, read_yaml, write_yaml
from couloir.data.corpora.amazon_queen import AmazonQueen
from couloir.data.corpora.asterisk import Asterisk
from couloir.data.corpora.base import Corpus
from couloir.data.corpora.config import CorporaConfig
from couloir.data.corpora.festvox import FestvoxRu
from couloir.data.corpora.fillets import Fillets
from couloir.data.corpora.synthetic import Synthetic
from couloir.data.corpora.tuxpaint import TuxPaint
from couloir.data.corpora.user import UserData
from couloir.errors import UserError, unknown_name
from couloir.text.units import PHONE, Unit

GROUPS = ("asterisk", "fillets", "human")
ASTERISK = {"en": "en-us", "es": "es-419", "fr": "fr", "it": "it", "ru": "ru"}  # language -> espeak voice
CHOICE_NAME = "corpora.yaml"


def builders(config: CorporaConfig) -> Mapping[str, Callable[[], Corpus]]:
    """Name -> what makes the builder. Here a new corpus is added."""
    return {
        "festvox-ru": FestvoxRu,
        "fillets-cs": partial(
            Fillets, "cs", True, "Czech, 2 main and about 24 minor speakers, 1.6 h of a game (110 MB)"
        ),
        "fillets-nl": partial(Fillets, "nl", False, "Dutch, 2 speakers, 1.5 h of a game (103 MB)"),
        **{f"asterisk-{language}": partial(Asterisk, language, accent) for language, accent in ASTERISK.items()},
        "tuxpaint": TuxPaint,
        "amazon-queen": AmazonQueen,
        "user": partial(UserData, config.user_data, config.user_language, config.unit is PHONE),
        "synthetic": partial(Synthetic, config.hours, config.synthetic_languages),
    }


def expand(names: tuple[str, ...], config: CorporaConfig) -> list[str]:
    """Names with groups replaced by their members: ``asterisk``, ``fillets``, ``human`` (all real speech).

    Raises `UserError` for a name that is neither.
    """
    known = list(builders(config))
    expanded: list[str] = []
    for name in names:
        members = [k for k in known if k.startswith(name + "-") and name in GROUPS]
        if name == "human":
            members = [k for k in known if k not in ("synthetic", "user")]
        if not members and name not in known:
            raise unknown_name("corpus", name, [*known, *GROUPS])
        expanded += [member for member in members or [name] if member not in expanded]
    return expanded


def build(names: Sequence[str], config: CorporaConfig, nj: int = 1) -> list[Corpus]:
    """The builders of these corpora; each may use ``nj`` processes."""
    known = builders(config)
    corpora = [known[name]() for name in names]
    for corpus in corpora:
        corpus.nj = nj
    return corpora


def save_choice(data_dir: Path, config: CorporaConfig) -> None:
    """Record which corpora were fetched, so that later stages need no flag for them."""
    write_yaml(data_dir / CHOICE_NAME, config)


def chosen(data_dir: Path) -> tuple[list[Corpus], CorporaConfig]:
    """What the fetch stage recorded. Raises `UserError` when it has not run."""
    path = data_dir / CHOICE_NAME
    if not path.is_file():
        raise UserError(f"{path} does not exist; run stage 0 of prepare.sh (fetch) first")
    config = from_mapping(CorporaConfig, read_yaml(path), origin=str(path))
    return build(config.corpora, config), config


def unit_of_data(data_dir: Path) -> Unit:
    """The unit of prepared transcripts, as the fetch stage recorded it; phones where it has not run."""
    return chosen(data_dir)[1].unit if (data_dir / CHOICE_NAME).is_file() else PHONE
