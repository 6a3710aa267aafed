"""A log file and an event file on a disk that is full for a while."""

import logging

from hpcmarl.runtime.log_files import LogFile
from hpcmarl.tracking.base import Place
from hpcmarl.tracking.tensorboard import TensorBoard
from tests.support.disks import fill_up
from tests.support.event_files import rows

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


# ---- event files of TensorBoard


def test_event_file_is_complete_after_the_disk_was_full(small_disk, caplog):
    tracker = TensorBoard(Place(small_disk, "first", "0123"))
    tracker.row(1, 10, 0.1, {f"learner/{number}": 1.0 for number in range(400)})
    ballast = fill_up(small_disk, 0)
    for version in range(2, 9):
        tracker.row(version, 10 * version, 0.1, {f"learner/{number}": 2.0 for number in range(400)})
    assert caplog.text.count("training continues") == 1
    ballast.unlink()
    tracker.row(9, 90, 0.1, {})
    tracker.close()
    found = rows(small_disk / "tensorboard")
    assert [row["step"] for row in found] == list(range(10, 100, 10))
    assert all(len(row) > 400 for row in found[:-1])
