"""The name that `couloir.models.zipformer.model` had in the first release, for programs that were written with it."""

from couloir.models.zipformer.model import AsrModel, build_model, num_subsampled_frames

__all__ = ["AsrModel", "build_model", "num_subsampled_frames"]
