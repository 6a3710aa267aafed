"""A log file on a disk that is full for a while."""

import logging

from hpcmarl.runtime.log_files import LogFile
from tests.support.disks import fill_up

# ---- logs and the summary


def test_log_file_resumes_after_the_disk_was_full(small_disk, capsys):
    ballast = fill_up(small_disk, 0)
    logger = logging.getLogger("test.of.logs")
    logger.propagate = False
    handler = LogFile(small_disk / "rank-0000.log")
    logger.addHandler(handler)
    try:
        for number in range(20):
            logger.warning("lost %d", number)
        assert capsys.readouterr().err.count("disk is full") == 1
        ballast.unlink()
        handler.retry_at = 0.0
        logger.warning("back")
        text = (small_disk / "rank-0000.log").read_text()
        assert text.endswith("back\n")
        assert "could not be written" in text
    finally:
        logger.removeHandler(handler)
        handler.close()
