"""Episodes as GIF and MP4 files. GIF needs Pillow; MP4 also PyAV, whose wheels contain FFmpeg's libraries."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from hpcmarl.errors import MissingPackageError, StorageError
from hpcmarl.replay.paint import Painter
from hpcmarl.replay.recording import Recording

RATE = 5  # steps in a second
LAST_SECONDS = 2  # the end of the episode stays visible
COLOURS = 64  # of a GIF
CODECS = ("libx264", "mpeg4")  # the first that the library has


def check_packages(suffix: str) -> None:
    """Check that the packages for a file of this suffix are installed.

    Raises:
        MissingPackageError: One is not; the message names the extra.
    """
    needed = {".gif": ("PIL",), ".mp4": ("PIL", "av")}.get(suffix, ())
    for module, name in (("PIL", "Pillow"), ("av", "PyAV")):
        if module in needed:
            try:
                __import__(module)
            except ImportError as error:
                raise MissingPackageError(
                    f'{suffix} files need the package {name}, which is not installed; pip install "hpcmarl'
                    '[video]", or write a page: --out FILE.html'
                ) from error


def write_gif(recording: Recording, path: Path) -> None:
    """Write an episode as an animated GIF with one frame for each step, and one for the end.

    Args:
        recording: The episode.
        path: File to write.
    """
    from PIL import Image

    frames = (
        Image.fromarray(frame).quantize(COLOURS, dither=Image.Dither.NONE)
        for frame in Painter(recording).frames()
    )
    durations = [1000 // RATE] * recording.steps + [1000 * LAST_SECONDS]
    first = next(frames)
    with path.open("wb") as file:
        first.save(
            file,
            "GIF",
            save_all=True,
            append_images=_marked(frames),
            duration=durations,
            loop=0,
            disposal=1,
            optimize=False,
        )


def _marked(frames: Any) -> Any:
    """Change one pixel of every second frame, since Pillow joins equal neighbours into one frame."""
    for number, frame in enumerate(frames):
        frame.putpixel((0, 0), (frame.getpixel((0, 0)) + number % 2) % COLOURS)
        yield frame


def write_mp4(recording: Recording, path: Path) -> None:
    """Write an episode as MP4, with RATE steps in a second.

    Args:
        recording: The episode.
        path: File to write.

    Raises:
        StorageError: The library cannot encode or write it.
    """
    import av

    codec = next((name for name in CODECS if name in av.codecs_available), CODECS[-1])
    painter = Painter(recording)
    picture: Any = None  # the newest frame; the last one is shown longer
    try:
        with av.open(str(path), "w", format="mp4") as container:
            stream: Any = container.add_stream(codec, rate=Fraction(RATE))
            stream.width, stream.height = painter.size
            stream.pix_fmt = "yuv420p"
            for picture in painter.frames():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            for _ in range(RATE * LAST_SECONDS - 1):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise StorageError(
            f"{path}: the video cannot be written: {' '.join(str(error).split())}; check the free space, or "
            "write a page: --out FILE.html"
        ) from error
