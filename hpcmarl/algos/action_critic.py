"""Common parts of MADDPG and MASAC: critics of joint actions, trained from replayed episodes.

Each policy has an actor and one or two critics Q_k (algo.twin_critics). All are trained by one vector:

    critics   loss = sum_k mean_rows w (Q_k(x, u) - R)^2
    actor     gain = mean_rows G(x, u~)
    R_t       = r_t + gamma V_{t+1}            V = min_k Q'_k(x', u') + b'

Each term is multiplied by the number of episodes. Subclasses define the actions u~ of the present actors, the
next actions u', the bonus b and the gain G. The gradient of the gain changes the actor alone, because the
parameters of critics are constants there. The other policies' actions are constants, too. w is the weight of
the episode if the replay has priorities.

Critics (algo.critic):

- joint_observation, state: one Q for the agents of a policy. x are all agents' observations, or the state. u
  are the actions of all agents of all policies. r is the mean reward of the policy's agents. Every row counts
  in which some agent acts.
- independent: one Q for each agent, of its own input and action. r is its own reward. In turn-based games, a
  step of an agent lasts until its next decision.

An agent that does not act has zeros in place of its observation and its action. With a central critic, all
actions in u~ are new ones, as in FACMAC (arXiv 2003.06709) and BenchMARL, instead of the others' stored ones.

The replay draws single steps or whole episodes (algo.replay.draw). Recurrent actors process each episode
from its first row. Replay and targets are in replayed.py.

    symbol    variable           shape
    u         taken              [T, B, N, C] for each policy (nets/action_codes.py)
    u~        present.codes      [T+1, B, N, C]
    u'        successors.codes   [T+1, B, N, C]
    Q         values             [T, B, U]
    V         future             [T+1, B, U]
    R         targets            [T, B, U]

U is the number of units with a value: 1, or the N agents of a policy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hpcmarl.algos.action_inputs import Seen
from hpcmarl.algos.batch import anybody
from hpcmarl.algos.episodes import Episodes, Places, PolicyEpisodes, action_values
from hpcmarl.algos.replayed import (
    Columns,
    Replayed,
    UnitErrors,
    team_columns,
)
from hpcmarl.config import ActionCriticConfig
from hpcmarl.nets.action_codes import ActionCode
from hpcmarl.nets.choosers import TINY
from hpcmarl.nets.critic import Critic, form_of
from hpcmarl.nets.device import numbers, tensor
from hpcmarl.nets.inputs import RowInputs
from hpcmarl.nets.policy import Policy
from hpcmarl.types import BoolArray, EnvironmentSpec, FloatArray, Rollout


@dataclass
class Actions:
    """Actions of all policies in the rows of episodes and their closing rows.

    Attributes:
        codes: Codes, shape [T+1, B, N, C] for each policy; zero for agents that are not alive.
        logps: Log-probabilities, shape [T+1, B, N] for each policy; zero for agents that are not alive, and
            for deterministic actions.
    """

    codes: list[torch.Tensor]
    logps: list[torch.Tensor]

    def detached(self) -> Actions:
        """Return the same actions as constants."""
        return Actions([code.detach() for code in self.codes], [logp.detach() for logp in self.logps])


@dataclass
class View:
    """The episodes of a gradient, as critics see them.

    Attributes:
        episodes: The episodes.
        seen: Inputs of each policy's critics, without actions.
        raw: Raw outputs of the present actors, shape [T+1, B, N, K] for each policy; differentiable. Zero in
            rows in which they are not needed.
        taken: Codes of the actions taken, shape [T, B, N, C] for each policy.
    """

    episodes: Episodes
    seen: list[Seen]
    raw: list[torch.Tensor]
    taken: list[torch.Tensor]


class ActionCritic(Replayed):
    """Base of MADDPG and MASAC; the module's docstring has the losses and symbols."""

    _config: ActionCriticConfig

    def __init__(self, spec: EnvironmentSpec, config: ActionCriticConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._central = config.critic != "independent"
        self._critics, self._target_critics = (
            critics_of(modules) for modules in (self._modules, self._target_modules)
        )
        self._target_policies = _actors_of(self._target_modules)
        self._codes = [ActionCode(policy.action) for policy in spec.policies]
        self._noise_seed, self._version, self._gradients = seed, -1, 0

    def on_version(self, version: int) -> None:
        super().on_version(version)
        if version != self._version:
            self._version, self._gradients = version, 0

    # ---- losses

    def _learn(self, episodes: Episodes, weights: torch.Tensor | None) -> tuple[dict[str, float], UnitErrors]:
        generator = np.random.default_rng([self._noise_seed, self._version + 1, self._gradients])
        self._gradients += 1
        view = self._view(episodes)
        present = self._sample(view.raw, episodes, generator)
        with torch.no_grad():
            successors = self._successors(present, episodes, generator)
        total, errors = torch.zeros((), device=self.device), []
        statistics: dict[str, float] = {}
        for index, policy in enumerate(self.spec.policies):
            loss, own, fitted = self._fit(index, view, successors, weights)
            gain, more = self._gain(index, view, present)
            total = total + gain - loss
            errors.append(fitted)
            for key, number in {**own, **more}.items():
                statistics[key] = statistics.get(key, 0.0) + number / len(self.spec.policies)
                if len(self.spec.policies) > 1:
                    statistics[f"{key}_{policy.name}"] = number
        (total * episodes.count).backward()  # type: ignore[no-untyped-call]
        joined = UnitErrors(
            torch.cat([each.errors for each in errors], -1), torch.cat([each.active for each in errors], -1)
        )
        return statistics, joined

    def _fit(
        self, index: int, view: View, successors: Actions, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, float], UnitErrors]:
        """Return the loss of a policy's critics, its statistics, and the errors of values."""
        policy, part = self.spec.policies[index], view.episodes.parts[index]
        columns, known = self._columns(view.episodes, part)
        with torch.no_grad():
            future = self._future(index, view, successors)
        targets = self._returns(columns, future, known, n_step=self._n_step)
        learned = view.episodes.learned(columns.active)
        active, rows = self.tensor(learned), max(1, int(np.count_nonzero(learned)))
        acting = Places(learned, self.device)
        inputs, wanted = self._inputs(index, view, learned, view.taken), acting.pick(targets)
        critics = self._critics[policy.name]
        values = torch.stack([critic(inputs) for critic in critics])
        differences = values - wanted
        squares = differences.square()
        if weights is not None:
            squares = squares * acting.pick(weights[:, None].expand(active.shape))
        loss = squares.sum() / rows
        if self._config.normalise_observations:
            for critic in critics:
                critic.observe(inputs, wanted, view.episodes.count / rows)
        errors, count = differences.detach(), rows * len(critics)
        sums = numbers(errors.square().sum(), values.sum(), wanted.sum())
        statistics = {"value_loss": sums[0] / count, "value": sums[1] / count, "target": sums[2] / rows}
        return loss, statistics, UnitErrors(acting.spread(errors.abs().mean(0)), active)

    @property
    def _n_step(self) -> int:
        """Number of rewards in a target."""
        return 1

    @abstractmethod
    def _sample(
        self, raw: Sequence[torch.Tensor], episodes: Episodes, generator: np.random.Generator
    ) -> Actions:
        """Choose actions by the raw outputs of actors.

        Args:
            raw: Raw outputs, shape [T+1, B, N, K] for each policy.
            episodes: The episodes.
            generator: Source of the noise.

        Returns:
            The actions, differentiable in `raw` where the gain needs it.
        """

    @abstractmethod
    def _successors(self, present: Actions, episodes: Episodes, generator: np.random.Generator) -> Actions:
        """Return the actions u' that follow, of which the targets take the value.

        Args:
            present: Actions of the present actors.
            episodes: The episodes.
            generator: Source of the noise.
        """

    @abstractmethod
    def _gain(self, index: int, view: View, present: Actions) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the gain of a policy's actor, averaged over rows, and statistics.

        Args:
            index: Index of the policy.
            view: The episodes.
            present: Actions u~ of the present actors.
        """

    def _future(self, index: int, view: View, successors: Actions) -> torch.Tensor:
        """Return V of a policy's units under the target network, shape [T+1, B, U]."""
        parts = view.episodes.parts
        present = self._successor_rows(
            parts[index], anybody([part.living for part in parts]) if self._central else parts[index].living
        )
        inputs = self._inputs(index, view, present, successors.codes)
        values = least_value(self._target_critics[self.spec.policies[index].name], inputs)
        return Places(present, self.device).spread(values)

    def _successor_rows(self, part: PolicyEpisodes, present: BoolArray) -> BoolArray:
        """Return those of the rows [T+1, B, U] whose values targets may need.

        The first row follows no other. Only the value of an unknown last observation is replaced by that of
        the step itself.
        """
        rows = present.copy()
        rows[0] = False if self._central else rows[0] & part.truncated[0] & ~part.known[1]
        return rows

    def _acting_rows(self, episodes: Episodes, part: PolicyEpisodes) -> BoolArray:
        """Return the rows [T+1, B, N] in which the actions of the present actors are needed."""
        return part.living

    def _value(
        self, index: int, view: View, codes: Sequence[torch.Tensor], first: bool = False
    ) -> torch.Tensor:
        """Return the critics' value of actions in the rows in which a policy's units act.

        The value is differentiable in the policy's own actions, but not in other actions or in the critics.

        Args:
            index: Index of the policy.
            view: The episodes.
            codes: Actions of all policies, shape [T+1, B, N, C] each.
            first: Whether to return the value of the first critic instead of the smaller one.

        Returns:
            Shape [n], in the C order of [T, B, U].
        """
        constant = [code if number == index else code.detach() for number, code in enumerate(codes)]
        acting = self._learned_rows(index, view)
        inputs = self._inputs(index, view, acting, [code[:-1] for code in constant])
        critics = self._critics[self.spec.policies[index].name]
        with frozen(critics):
            return least_value(critics[:1] if first else critics, inputs)

    # ---- inputs of critics

    def _view(self, episodes: Episodes) -> View:
        """Return the episodes as critics see them, with the outputs of the present actors."""
        policies = list(enumerate(self.spec.policies))
        forms = [form_of(self._critics[policy.name][0]) for _, policy in policies]
        # central critics of equal inputs share them
        first = Seen(forms[0], self.spec, 0, episodes, self.device)
        seen = [
            first if self._central else Seen(forms[index], self.spec, index, episodes, self.device)
            for index, _ in policies
        ]
        raw = [
            action_values(self._policies[policy.name], part, self._acting_rows(episodes, part))
            for policy, part in zip(self.spec.policies, episodes.parts, strict=True)
        ]
        taken = [
            zero_where_idle(code.encode(part.action), part.active)
            for code, part in zip(self._codes, episodes.parts, strict=True)
        ]
        return View(episodes, seen, raw, taken)

    def _inputs(self, index: int, view: View, where: BoolArray, codes: Sequence[torch.Tensor]) -> RowInputs:
        """Return the inputs of a policy's critics.

        Args:
            index: Index of the policy.
            view: The episodes.
            where: Rows to take, shape [R, B, U].
            codes: Actions in the first R rows, shape [R, B, N, C] for each policy.
        """
        return view.seen[index].rows(where, self._joined(index, where, codes))

    def _joined(self, index: int, where: BoolArray, codes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the actions that a policy's critics see in n rows [R, B, U], shape [n, C]."""
        joint = (
            torch.cat([code.flatten(-2) for code in codes], -1).unsqueeze(-2)
            if self._central
            else codes[index]
        )
        return Places(where, self.device).pick(joint)

    def _learned_rows(self, index: int, view: View) -> BoolArray:
        """Return the rows in which a policy's units act and are learned from, shape [T, B, U]."""
        active = view.episodes.parts[index].active
        return view.episodes.learned(anybody([active]) if self._central else active)

    def _columns(self, episodes: Episodes, part: PolicyEpisodes) -> tuple[Columns, BoolArray | None]:
        """Return the rewards and ends of a policy's units, and the rows with a real observation."""
        if self._central:
            return team_columns(episodes, [part.reward]), None
        return Columns(part.reward, part.active, part.terminated, part.truncated), part.known

    # ---- the rest of Replayed

    def _observe(self, episodes: Episodes) -> None:
        self._observe_alive(self._policies.values(), episodes)

    def distance(self, rollouts: Sequence[Rollout]) -> float:
        with torch.no_grad():
            view = self._view(self.stage(rollouts))
        total, count = 0.0, 0
        parts = zip(self._codes, view.raw, view.taken, view.episodes.parts, strict=True)
        for code, raw, taken, part in parts:
            mask = None if part.mask is None else part.mask[:-1]
            apart = code.distance(code.mode(raw[:-1], mask), taken)
            total += numbers((apart * self.tensor(part.active)).sum())[0]
            count += int(part.active.sum())
        return total / max(1, count)


def zero_where_idle(codes: torch.Tensor, acting: BoolArray) -> torch.Tensor:
    """Return codes [..., N, C] with zeros for agents that do not act, by `acting` [..., N]."""
    return codes if acting.all() else codes * tensor(acting, codes.device).unsqueeze(-1)


def gaussian_noise(shape: Sequence[int], generator: np.random.Generator) -> FloatArray:
    """Draw standard normal numbers."""
    return generator.standard_normal(tuple(shape), dtype=np.float32)


def gumbel_noise(shape: Sequence[int], generator: np.random.Generator) -> FloatArray:
    """Draw numbers of the standard Gumbel distribution."""
    noise: FloatArray = -np.log(generator.standard_exponential(tuple(shape), dtype=np.float32) + TINY)
    return noise


def least_value(critics: Sequence[Critic], inputs: RowInputs) -> torch.Tensor:
    """Return the smaller one of the critics' values of n rows, shape [n]."""
    values: torch.Tensor = critics[0](inputs)
    for critic in critics[1:]:
        values = torch.minimum(values, critic(inputs))
    return values


@contextmanager
def frozen(critics: Sequence[Critic]) -> Iterator[None]:
    """Treat the parameters of critics as constants of what is computed inside."""
    parameters = [parameter for critic in critics for parameter in critic.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def critics_of(modules: Mapping[str, nn.Module]) -> dict[str, list[Critic]]:
    """Return the critics of each policy."""
    found = {name: module.get_submodule("critic").children() for name, module in modules.items()}
    return {name: [critic for critic in own if isinstance(critic, Critic)] for name, own in found.items()}


def _actors_of(modules: Mapping[str, nn.Module]) -> list[Policy]:
    actors = [module.get_submodule("actor") for module in modules.values()]
    return [actor for actor in actors if isinstance(actor, Policy)]
