"""A run directory on a read-only file system."""

import os
import stat
import subprocess

import pytest

from hpcmarl.errors import ConfigError
from hpcmarl.io.run_directory import RunDirectory


def test_read_only_run_directory_is_rejected(tmp_path):
    place = tmp_path / "locked"
    place.mkdir()
    if os.geteuid() == 0:
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(place)], capture_output=True
        ).returncode:
            pytest.skip("root may write everywhere, and mounting is not permitted")
    else:
        place.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(ConfigError, match=r"--run-dir .*(read-only|permission)"):
            RunDirectory(place / "run").create("")
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(place)], check=True)
        else:
            place.chmod(stat.S_IRWXU)
