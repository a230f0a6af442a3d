"""Video codecs."""

from neuralcodec.codecs.video.fitted import FittedVideo

__all__ = ["FittedVideo"]
