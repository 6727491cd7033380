"""The name that `couloir.models.heads.config` had in the first release, for programs that were written with it."""

from couloir.models.heads.config import HeadsConfig

__all__ = ["HeadsConfig"]
