"""Pillow reads and writes ``.nci`` files once this is imported.

    >>> import neuralcodec.pillow
    >>> from PIL import Image
    >>> Image.open("photo.nci").save("photo.png")                          # doctest: +SKIP
    >>> Image.open("photo.png").save("photo.nci", quality=50)              # doctest: +SKIP

Options of ``save``: ``quality`` (0…100), ``model`` (a name of shipped weights, or a weights file), ``icc_profile``. Files of other weights
open once their names are in :data:`models`. Size and mode are known, and damage is found, as a file is opened; it is decoded as its pixels
are first asked for. Importing this imports no torch; decoding and saving do.
"""

from __future__ import annotations

import io
from typing import IO

from PIL import Image, ImageFile

from neuralcodec.codecs import DEFAULTS, WEIGHTS
from neuralcodec.entropy import container

FORMAT = "NCI"
MIME = "image/x-neuralcodec"
MODALITY_AT = len(container.MAGIC) + 1  # behind the version

models: list[str] = []  # weights to look for a file's own among, besides the shipped ones


class NciImageFile(ImageFile.ImageFile):
    """An ``.nci`` file. ``info`` has ``level``, ``sample_bits`` if they are 16, and ``icc_profile``."""

    format = FORMAT
    format_description = "neuralcodec image"

    def _open(self) -> None:
        assert self.fp is not None
        try:
            self._content: container.Content | None = container.read(self.fp.read())
            header = container.image_header(self._content)
        except container.ContainerError as error:
            raise OSError(str(error)) from None
        deep = header.sample_bits == 16
        self._size = (header.width, header.height)
        self._mode = {(1, False): "I;16" if deep else "L", (1, True): "LA", (3, False): "RGB", (3, True): "RGBA"}[
            header.channels, header.alpha
        ]
        self.info["level"] = self._content.level
        if deep:
            self.info["sample_bits"] = header.sample_bits
        if header.icc_profile:
            self.info["icc_profile"] = header.icc_profile
        self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]

    def load(self):
        if self.tile and self._content is not None and self.fp is not None:
            from neuralcodec.codecs.errors import CodecError
            from neuralcodec.codecs.image.files import decode_picture
            from neuralcodec.codecs.image.pictures import to_pillow

            try:
                decoded = to_pillow(decode_picture(self._content, [*WEIGHTS, *models]))
            except CodecError as error:
                raise OSError(str(error)) from None
            self._content = None
            if self._exclusive_fp:
                self.fp.close()
            self.fp = io.BytesIO(decoded.tobytes())
        return super().load()

    def load_seek(self, pos: int) -> None:
        """Nowhere: what is loaded is the whole picture."""


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.MAGIC) and prefix[MODALITY_AT : MODALITY_AT + 1] == bytes([container.MODALITIES["image"]])


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    from neuralcodec.codecs.errors import CodecError
    from neuralcodec.codecs.files import load
    from neuralcodec.codecs.image.files import encode_picture
    from neuralcodec.codecs.image.pictures import from_pillow

    options = image.encoderinfo
    try:
        codec = load(options.get("model", DEFAULTS["image"]))
        picture = from_pillow(image)
        profile = options.get("icc_profile", picture.icc_profile) or None
        data = encode_picture(codec, picture._replace(icc_profile=profile), codec.level_for_quality(options.get("quality", 50)))
    except CodecError as error:
        raise OSError(str(error)) from None
    file.write(data)


Image.register_open(FORMAT, NciImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, container.SUFFIXES["image"])
Image.register_mime(FORMAT, MIME)
