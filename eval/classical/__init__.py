"""The codecs that people use today, one module for each modality, all behind :class:`~neuralcodec.eval.candidates.Candidate`."""

from neuralcodec.eval.candidates import Candidate
from neuralcodec.eval.classical import audio, image, video

CLASSICAL: dict[str, Candidate] = {codec.name: codec for codec in (*image.CODECS, *audio.CODECS, *video.CODECS)}
