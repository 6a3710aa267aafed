"""A file system that is almost full."""

import shutil


def fill_up(place, left):
    """Write a file that leaves only `left` bytes free, and return its path."""
    ballast = place / "ballast"
    with ballast.open("wb") as stream:
        stream.write(bytes(max(0, shutil.disk_usage(place).free - left)))
    return ballast
