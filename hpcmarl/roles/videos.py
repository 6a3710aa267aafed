"""Videos of evaluation episodes during training (eval.video_every).

An episode of the evaluation is recorded. Afterwards its actions are played again to draw it, one step at a
time, so that the server waits only briefly. During training the steps are paced, since software rendering can
take a tenth of a second each. A thread encodes and writes the page. Failures are warnings.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcmarl.config import EnvConfig
from hpcmarl.envs import prepare_environment
from hpcmarl.errors import HpcmarlError
from hpcmarl.replay.observed import observe
from hpcmarl.replay.recorder import Recorder
from hpcmarl.replay.recording import Origin, Recording
from hpcmarl.replay.redrawing import redraw
from hpcmarl.replay.writing import write_recording
from hpcmarl.roles.base import Context

LOGGER = logging.getLogger(__name__)
WRITING_SECONDS = 30.0  # the end of a run waits for a page at most so long
DRAWING_SECONDS = 60.0  # a video that needs more is left out
PAUSE = 9.0  # during training, a drawn step is followed by a pause of so many times its duration


class Videos:
    """Makes one video at a time.

    Args:
        context: The rank.
        environments: Different environments of the run; episodes of the first are shown.
    """

    def __init__(self, context: Context, environments: Sequence[EnvConfig]) -> None:
        self._context, self._environment = context, environments[0]
        self._settings = context.config.eval
        self._evaluations, self._hurried = 0, False
        self._spent = self._due = 0.0  # seconds of drawing, and time of the next step
        self._recorder: tuple[Recorder, int] | None = None
        self._drawing: tuple[Recording, int, Iterator[None]] | None = None
        self._writing: tuple[threading.Thread, float] | None = None
        if self._settings.video_every and self._settings.episodes:
            prepare_environment(self._environment, 1)  # now, so that the server need not wait later

    @property
    def busy(self) -> bool:
        """Whether an episode is being drawn or written."""
        if self._drawing is not None:
            return True
        if self._writing is None:
            return False
        thread, until = self._writing
        return thread.is_alive() and time.monotonic() < until

    def recorder(self, version: int) -> Recorder | None:
        """Return the recorder of an evaluation that begins; None: it gets no video.

        An evaluation that begins while an earlier episode is being drawn gets none.

        Args:
            version: Version of the parameters.
        """
        every, self._recorder = self._settings.video_every, None
        due = every > 0 and self._evaluations % every == 0
        self._evaluations += 1
        if not due or self._drawing is not None:
            return None
        origin = Origin((self._environment,), self._context.config.policies, self._settings.seed, 0, 0)
        recorder = Recorder(self._context.environment_spec, origin)
        self._recorder = (recorder, version)
        return recorder

    def begin(self) -> None:
        """Begin the video of the evaluation that has just ended, if it gets one."""
        if self._recorder is None:
            return
        (recorder, version), self._recorder = self._recorder, None
        if recorder.recordings:
            recording = recorder.recordings[0]
            recording.facts |= {"source": "evaluation episode", "version": version}
            self._drawing, self._spent, self._due = (recording, version, redraw(recording)), 0.0, 0.0

    def step(self) -> bool:
        """Do a little work on the video, and return whether there was any."""
        began = time.monotonic()
        if self._drawing is None or (began < self._due and not self._hurried):
            return False
        recording, version, steps = self._drawing
        try:
            next(steps)
        except StopIteration:
            self._drawing = None
            self._begin_writing(recording, version)
        taken = time.monotonic() - began
        self._spent, self._due = self._spent + taken, began + taken * (1 + PAUSE)
        if self._drawing is not None and self._spent > DRAWING_SECONDS:
            self._drawing = None
            path = video_path(self._context.run_directory, version)
            LOGGER.warning("%s: no video, since drawing it takes more than %g s", path, DRAWING_SECONDS)
        return True

    def _begin_writing(self, recording: Recording, version: int) -> None:
        earlier = None if self._writing is None else self._writing[0]
        if earlier is not None and earlier.is_alive() and not self.busy:
            path = video_path(self._context.run_directory, version)
            LOGGER.warning("%s: no video, since the disk has not responded for a long time", path)
            return
        thread = threading.Thread(target=self._write, args=(recording, version, earlier), daemon=True)
        self._writing = (thread, time.monotonic() + WRITING_SECONDS)
        thread.start()

    def _write(self, recording: Recording, version: int, earlier: threading.Thread | None) -> None:
        if earlier is not None:
            earlier.join()
        path = video_path(self._context.run_directory, version)
        try:
            if recording.drawn is None:
                observe(recording)
            if self._context.lock is not None:
                self._context.lock.watch()
            write_recording(recording, path)
        except HpcmarlError as error:
            LOGGER.warning("%s; the training continues without this video", error)
        except Exception as error:  # a video never ends a training
            LOGGER.warning("%s: no video: %s: %s", path, type(error).__name__, " ".join(str(error).split()))

    def end_training(self, *, finished: bool) -> None:
        """Draw without pauses from now on. A run that was interrupted waits for no video."""
        self._hurried = True
        if not finished:
            self.cancel()

    def cancel(self) -> None:
        """Discard the present video, and wait no longer for one that is being written."""
        self._recorder = self._drawing = None
        if self._writing is not None:
            self._writing = (self._writing[0], 0.0)


def video_path(run_directory: Path, version: int) -> Path:
    """Return videos/version-NNNNNN.html."""
    return run_directory / "videos" / f"version-{version:06d}.html"
