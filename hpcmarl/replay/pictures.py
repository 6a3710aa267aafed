"""Pictures that an environment rendered: kept small, checked, and encoded for pages."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from hpcmarl.envs.drawing import Picture

LONGEST_SIDE = 400  # pixels; larger pictures are reduced
DARK = 8  # a picture whose channels are all below this counts as black
QUALITY = 60  # of WebP


@dataclass
class Pictures:
    """Pictures of an episode. Equal ones are kept once.

    Attributes:
        every: Distance of two pictures in steps; the last picture is after the last step.
        places: Number in `kept` of each picture.
        kept: Compressed pixels and shape of each different picture.
    """

    every: int = 1
    places: list[int] = field(default_factory=list)
    kept: list[tuple[bytes, tuple[int, int]]] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)
    _bright: bool = False

    def append(self, picture: Picture) -> None:
        """Add a picture, uint8 [height, width, 3]."""
        small = reduced(picture)
        digest = hashlib.blake2b(small.tobytes(), digest_size=16).digest()
        if digest not in self._known:
            self._known[digest] = len(self.kept)
            height, width = small.shape[:2]
            self.kept.append((zlib.compress(small.tobytes(), 1), (height, width)))
            self._bright = self._bright or int(small.max(initial=0)) >= DARK
        self.places.append(self._known[digest])

    def pixels(self, number: int) -> Picture:
        """Return a picture of `kept`, uint8 [height, width, 3]."""
        data, (height, width) = self.kept[number]
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, width, 3)

    @property
    def problem(self) -> str:
        """Reason not to show the pictures; empty if there is none."""
        if not self.places:
            return "it rendered no picture"
        if not self._bright:
            return "its pictures are all black"
        if len(self.places) > 1 and len(self.kept) == 1:
            return f"its {len(self.places)} pictures are all the same"
        return ""


def reduced(picture: Picture) -> Picture:
    """Return a picture of at most LONGEST_SIDE; without Pillow, a whole number of pixels becomes one."""
    longest = max(picture.shape[:2])
    if longest <= LONGEST_SIDE:
        return np.ascontiguousarray(picture)
    try:
        from PIL import Image
    except ModuleNotFoundError:
        stride = -(-longest // LONGEST_SIDE)
        height, width = (max(1, side // stride) for side in picture.shape[:2])
        blocks = picture[: height * stride, : width * stride].reshape(height, stride, width, stride, 3)
        mean: Picture = blocks.mean((1, 3)).astype(np.uint8)
        return mean
    height, width = (max(1, side * LONGEST_SIDE // longest) for side in picture.shape[:2])
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def data_uri(picture: Picture) -> str:
    """Encode a picture for a page: as WebP if Pillow is installed, else as PNG."""
    try:
        from PIL import Image, features
    except ModuleNotFoundError:
        return _uri("png", png(picture))
    if not features.check("webp"):
        return _uri("png", png(picture))
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=QUALITY, method=2)
    return _uri("webp", stream.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def png(picture: Picture) -> bytes:
    """Encode a picture as PNG, without any package.

    Source:
        W3C, Portable Network Graphics, 3rd edition.
    """
    height, width = picture.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], 1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
