"""Drawing of a recorded episode: its actions are played again from its seed, and the environment is drawn.

The drawings count only if the environment repeats the episode: observations, rewards and the end must equal
the recorded ones.
"""

from __future__ import annotations

import ctypes.util
import os
import warnings
from collections.abc import Generator, Iterator

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.envs import (
    BATCHED_ONLY,
    BatchedEnvironment,
    Seeds,
    has_batched_form,
    is_batched,
    make_environment,
    new_frame,
    new_outcome,
)
from hpcmarl.envs.drawing import Drawing, Scene
from hpcmarl.errors import HpcmarlError
from hpcmarl.replay.pictures import Pictures
from hpcmarl.replay.recording import Origin, Recording, Scenes
from hpcmarl.types import Array, Frame, Outcome, fields_of

MOST_SCENES, MOST_PICTURES = 3000, 240
# Rewards and most observations are float32; environments of other processors round differently.
RELATIVE, ABSOLUTE = 1e-4, 1e-5


class _NotDrawnError(Exception):
    """The environment cannot be drawn, or does not repeat the episode; the message is half a sentence."""


def redraw(recording: Recording) -> Iterator[None]:
    """Draw an episode and set `drawn` and `notes` of the recording.

    Each item of the iterator is one step of work, so that a caller can do other work in between. Failures of
    any kind become a note; the recording is then not drawn.

    Args:
        recording: The episode.
    """
    if recording.origin is None:
        return
    reasons = []
    for config in _forms(recording.origin):
        try:
            recording.drawn = yield from _play(recording, recording.origin, config)
        except (_NotDrawnError, HpcmarlError) as error:
            reasons.append(" ".join(str(error).split()))
        except Exception as error:  # foreign code: packages, drivers of graphics
            reasons.append(f"it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        else:
            recording.notes.append(
                f"The environment played the {recording.steps} recorded steps again from the seed of the "
                "episode; observations and rewards equal the recorded ones."
            )
            return
    recording.notes.append(f"{recording.environment} is not drawn: {reasons[-1]}.")


def _forms(origin: Origin) -> list[EnvConfig]:
    """Return settings of environments that may draw the episode: native scenes first, then pictures."""
    native, rendered = [], []
    for config in origin.environments:
        if has_batched_form(config.id):
            native.append(config.model_copy(update={"batched": "auto"}))
        if config.id.partition(":")[0] not in BATCHED_ONLY:
            kwargs = {**config.kwargs, "render_mode": "rgb_array"}
            rendered.append(config.model_copy(update={"batched": False, "kwargs": kwargs}))
    return [*native, *rendered]


def _headless() -> None:
    """Let SDL, pyglet and MuJoCo render without a display, unless the user has chosen how."""
    for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(name, "dummy")
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("PYGLET_HEADLESS", "True")
        for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
            if ctypes.util.find_library(library) is not None:
                os.environ.setdefault("MUJOCO_GL", name)


def _play(
    recording: Recording, origin: Origin, config: EnvConfig
) -> Generator[None, None, Scenes | Pictures]:
    """Play the episode in one environment and return its drawings.

    Raises:
        _NotDrawnError: The environment has no drawing, or does not repeat the episode.
    """
    _headless()
    rendered = "render_mode" in config.kwargs
    if not rendered and not is_batched(config):
        raise _NotDrawnError("it has no batched form that draws")
    restless = config.model_copy(update={"restarts": 0, "on_restart_limit": "stop"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages, about render_mode
        batch = make_environment(restless, origin.policies, 1, Seeds(origin.seed, origin.slot))
    try:
        if {policy.name for policy in batch.spec.policies} != {own.name for own in recording.policies}:
            raise _NotDrawnError("the actions of its other policies are not stored")
        frame, outcome = new_frame(batch.spec, 1), new_outcome(batch.spec, 1)
        batch.rests_next[0], batch.final_drawings = True, {}
        batch.load_state_dict({"restarts": 0, "episode": np.array([origin.episode - 1])}, frame)
        most = MOST_PICTURES if rendered else MOST_SCENES
        every = -(-recording.steps // most)
        drawings: list[Drawing] = []
        pictures = Pictures(every)
        for step in range(recording.steps):
            _compare_observations(recording, step, frame)
            if step % every == 0:
                _keep(batch.drawing(0), drawings, pictures)
            try:
                _step(recording, step, batch, outcome, frame)
            except HpcmarlError:
                if recording.end != "failed" or step < recording.steps - 1:
                    raise
                break  # it fails again at the step at which it failed
            yield
        else:
            ended = bool(outcome.episode_end[0])
            _keep(batch.final_drawings.get(0) if ended else batch.drawing(0), drawings, pictures)
    finally:
        batch.close()
    if pictures.places:
        if pictures.problem:
            raise _NotDrawnError(pictures.problem)
        return pictures
    return Scenes(tuple(drawing for drawing in drawings if isinstance(drawing, Scene)), every)


def _keep(drawing: Drawing | None, scenes: list[Drawing], pictures: Pictures) -> None:
    if drawing is None:
        raise _NotDrawnError("it renders no picture (render_mode rgb_array)")
    if isinstance(drawing, Scene):
        scenes.append(drawing)
    else:
        pictures.append(drawing)


def _step(recording: Recording, step: int, batch: BatchedEnvironment, outcome: Outcome, frame: Frame) -> None:
    """Take one recorded step, and compare its rewards and its end."""
    batch.step({policy.name: policy.action[step : step + 1] for policy in recording.policies}, outcome, frame)
    last = step == recording.steps - 1
    if last and recording.end == "failed":
        return  # the failed step has no rewards, and perhaps the environment goes on here
    for policy in recording.policies:
        if not _equal(outcome.policies[policy.name].reward[0], policy.reward[step]):
            raise _NotDrawnError(f"played again from its seed, it gives other rewards at step {step + 1}")
    if bool(outcome.episode_end[0]) != last:
        raise _NotDrawnError(f"played again from its seed, it ends at another step than {recording.steps}")


def _compare_observations(recording: Recording, step: int, frame: Frame) -> None:
    for policy in recording.policies:
        seen, alive = frame.policies[policy.name], policy.alive[step]
        if not np.array_equal(seen.alive[0], alive) or not _equal(
            seen.obs[0][alive], policy.obs[step][alive]
        ):
            raise _NotDrawnError(
                f"played again from its seed, it gives other observations at step {step + 1}"
            )


def _equal(one: Array, other: Array) -> bool:
    parts, others = fields_of(one), fields_of(other)
    return (
        one.shape == other.shape
        and parts.keys() == others.keys()
        and all(
            part.shape == others[key].shape and np.allclose(part, others[key], RELATIVE, ABSOLUTE)
            for key, part in parts.items()
        )
    )
