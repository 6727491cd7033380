"""What is said of a recording: that it cannot be used, or what was done to use it."""

from __future__ import annotations

import logging

from couloir.errors import UserError

log = logging.getLogger("couloir.audio")


class AudioError(UserError):
    """A recording that cannot be used. The message names it and says why."""


class UnsupportedAudio(AudioError):
    """A recording whose coding the decoder that was asked does not know."""
