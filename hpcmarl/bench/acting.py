"""Measure the speed of acting against a bare torch loop and against bare environment stepping.

One process runs all of them in turn, in short windows, without MPI and without a learner. Acting is an
actor's work between two rollouts: one batched forward pass for each policy, and one step of all slots. The
bare torch loop (reference/acting.py) does the same with plain torch layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hpcmarl.algos import make_model
from hpcmarl.algos.model import Model
from hpcmarl.bench.paired_throughput import FIRST_SLOT, WARM_UP
from hpcmarl.bench.reference.acting import ReferenceActing, missing_reason
from hpcmarl.config import Config, InferenceSetting, inference_form
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.envs.bare import make_bare, step_bare
from hpcmarl.nets.device import open_device
from hpcmarl.nets.inference import Inference
from hpcmarl.placement import wants_cuda
from hpcmarl.roles.base import generator_for
from hpcmarl.types import Array, Frame

WINDOW = 1.0  # seconds of one window; they alternate
# Chooses the actions of each policy for the observations of all slots.
Decide = Callable[[Frame], dict[str, Array]]


class Deciding:
    """Decisions of a model, with the memory of its agents.

    Args:
        model: The model.
        slots: Environments that are stepped together.
        seed: Seed of the run.
    """

    def __init__(self, model: Model, slots: int, seed: int) -> None:
        self.model, self.generator = model, generator_for(seed, "actor", 0)
        self.memory = model.initial_memory(slots)

    def decide(self, frame: Frame) -> dict[str, Array]:
        """Return the actions of each policy."""
        decisions = self.model.act(frame, self.memory, self.generator)
        self.memory |= {
            policy: decision.memory for policy, decision in decisions.items() if decision.memory is not None
        }
        return {policy: decision.action for policy, decision in decisions.items()}


class Acting:
    """Environments whose actions come from one kind of decisions, with clocks.

    Args:
        config: Configuration of the run.
        with_state: Whether the environments compute their state.
        decide: Chooses the actions.

    Attributes:
        slots: Environments that are stepped together.
        rates: Environment steps per second of each window.
        decision_us: Microseconds of a decision in each window, without the step of the environments.
        decision_processor_us: Processor time of a decision in each window, in microseconds.
        seconds: Wall-clock time of all windows.
        processor_seconds: Processor time of all windows.
    """

    def __init__(self, config: Config, *, with_state: bool, decide: Decide) -> None:
        self.slots = config.topology.environments_per_actor
        self.decide = decide
        self.environment = make_environment(
            config.env, config.policies, self.slots, Seeds(config.seed), with_state=with_state
        )
        self.frames = [new_frame(self.environment.spec, self.slots, with_state) for _ in range(2)]
        self.outcome = new_outcome(self.environment.spec, self.slots)
        self.environment.reset(self.frames[0])
        self.restart()

    def restart(self) -> None:
        """Forget all windows."""
        self.rates: list[float] = []
        self.decision_us: list[float] = []
        self.decision_processor_us: list[float] = []
        self.seconds = self.processor_seconds = 0.0

    def run(self, seconds: float) -> None:
        """Act for one window of about `seconds`."""
        steps, deciding, processor_deciding = 0, 0.0, 0.0
        first, first_processor = time.perf_counter(), time.process_time()
        now = first
        while now - first < seconds:
            began, processor = time.perf_counter(), time.process_time()
            actions = self.decide(self.frames[0])
            processor_deciding += time.process_time() - processor
            deciding += time.perf_counter() - began
            self.environment.step(actions, self.outcome, self.frames[1])
            self.frames.reverse()
            steps += 1
            now = time.perf_counter()
        self.rates.append(steps * self.slots / (now - first))
        self.decision_us.append(1e6 * deciding / steps)
        self.decision_processor_us.append(1e6 * processor_deciding / steps)
        self.seconds += now - first
        self.processor_seconds += time.process_time() - first_processor


def run(config: Config, seconds: float) -> dict[str, Any]:
    """Measure acting, the bare torch loop and bare stepping for about `seconds` each.

    Returns:
        As `measure`, for the model of the configuration.
    """
    torch.set_num_threads(config.topology.threads)
    torch.manual_seed(config.seed)  # torch.distributions draw from the global generator
    return measure(config, models(config), seconds)


def models(config: Config) -> dict[str, Model]:
    """Return the model of an actor without workers, and one for each library that can compute its networks.

    Args:
        config: Configuration of the run.

    Returns:
        Models with equal parameters, by the value of topology.inference. The first one, "configured", has
        that of the configuration. "device" is left out if `device` is the CPU.
    """
    spec = describe(config.env, config.policies)
    plan = Inference.of_actor(config, has_workers=False)
    settings: dict[str, InferenceSetting] = {"configured": plan.setting}
    shapes = make_model(spec, config.algo, config.seed).design.policies.values()
    if all(shape.in_numpy for shape in shapes):
        settings["numpy"] = "numpy"
    if config.algo.sparse_training is None:
        settings["torch"] = "torch"
        if wants_cuda(config.device):
            settings["device"] = "device"
    made = {}
    for name, setting in settings.items():
        made[name] = make_model(spec, config.algo, config.seed)
        made[name].infer_by(replace(plan, setting=setting), lambda: open_device(config.device, 0))
        made[name].set_weight_format(inference_form(config))
    return made


def measure(config: Config, measured: Mapping[str, Model], seconds: float) -> dict[str, Any]:
    """Measure models beside the bare torch loop and bare stepping.

    Args:
        config: Configuration of the run.
        measured: The result of `models`.
        seconds: Seconds of each of the loops.

    Returns:
        Rates in environment steps per second, ratios of acting to both others, the medians of `decision_us`
        and of its processor time over windows, and `acting_processor_share`: processor time per second of
        acting. They are those of the configured model. `decision_us_by_library` has the medians of the other
        models. Figures of the bare torch loop are None where it cannot compute the policies;
        `bare_torch_missing` is the reason.
    """
    model = measured["configured"]
    slots, reason = config.topology.environments_per_actor, missing_reason(model)
    state = model.needs_state
    libraries = {
        name: Acting(config, with_state=state, decide=Deciding(each, slots, config.seed).decide)
        for name, each in measured.items()
    }
    ours = libraries.pop("configured")
    torch_loop = (
        None if reason else Acting(config, with_state=state, decide=ReferenceActing(model, slots).decide)
    )
    loops = [ours, *libraries.values()] if torch_loop is None else [ours, *libraries.values(), torch_loop]
    bare = make_bare(config.env, slots, Seeds(config.seed, FIRST_SLOT))
    step_bare(bare, WARM_UP)
    for loop in loops:
        loop.run(0.2)
        loop.restart()
    stepped: list[float] = []
    for _ in range(max(2, round(seconds / WINDOW))):
        for loop in loops:
            loop.run(WINDOW)
        count, took = step_bare(bare, WINDOW)
        stepped.append(count / took)
    bare.close()
    for loop in loops:
        loop.environment.close()
    return {
        "acting_env_steps_per_second": float(np.mean(ours.rates)),
        "bare_env_steps_per_second": float(np.mean(stepped)),
        **_ratios("ratio", ours.rates, stepped),
        "slots": slots,
        "environment": config.env.id,
        "window_seconds": WINDOW,
        "acting_processor_share": ours.processor_seconds / ours.seconds,
        "decision_us": float(np.median(ours.decision_us)),
        "decision_processor_us": float(np.median(ours.decision_processor_us)),
        "decision_us_by_library": {
            name: float(np.median(loop.decision_us)) for name, loop in libraries.items()
        },
        **_beside_torch(ours, torch_loop),
        "bare_torch_missing": reason or None,
    }


def _beside_torch(ours: Acting, other: Acting | None) -> dict[str, Any]:
    """Return the figures of the bare torch loop; a ratio above 1 means that hpcmarl is faster."""
    if other is None:
        names = ("env_steps_per_second", "decision_us", "decision_processor_us", "ratio", "ratio_median")
        ratios = ("ratio_of_windows", "ratio_of_decisions", "ratio_of_decision_processor_time")
        return {f"bare_torch_{name}": None for name in (*names, *ratios)}
    processor = np.array(other.decision_processor_us) / np.array(ours.decision_processor_us)
    return {
        "bare_torch_env_steps_per_second": float(np.mean(other.rates)),
        "bare_torch_decision_us": float(np.median(other.decision_us)),
        "bare_torch_decision_processor_us": float(np.median(other.decision_processor_us)),
        **_ratios("bare_torch_ratio", ours.rates, other.rates),
        "bare_torch_ratio_of_decisions": float(
            np.median(np.array(other.decision_us) / np.array(ours.decision_us))
        ),
        "bare_torch_ratio_of_decision_processor_time": float(np.median(processor)),
    }


def _ratios(name: str, own: list[float], other: list[float]) -> dict[str, Any]:
    """Return the ratio of mean rates, the median of the windows' ratios, and all of them."""
    ratios = np.array(own) / np.array(other)
    return {
        name: float(np.mean(own) / np.mean(other)),
        f"{name}_median": float(np.median(ratios)),
        f"{name}_of_windows": ratios.tolist(),
    }
