"""A file system that fills up."""

import shutil


def fill_up(place, left):
    """A file that leaves `left` bytes free."""
    ballast = place / "ballast"
    with ballast.open("wb") as stream:
        stream.write(bytes(max(0, shutil.disk_usage(place).free - left)))
    return ballast
