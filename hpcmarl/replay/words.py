"""Names of actions, where they are known."""

from __future__ import annotations

import numpy as np

from hpcmarl.replay.recording import PolicySteps
from hpcmarl.types import Array

PUSHES = ("stay", "left", "right", "down", "up")  # mpe2
MOVES = ("up", "right", "down", "left", "stop")  # SMAX; attacks follow
PARTICLES = ("mpe2.", "hpcmarl.envs.games.particles")
# Columns of boards. Rows are counted from below.
BOARDS = {"pettingzoo.classic.tictactoe_v3": 3, "openspiel:tic_tac_toe": 3}
COLUMNS = ("pettingzoo.classic.connect_four_v3", "openspiel:connect_four")


def action_words(environment: str, policy: PolicySteps) -> list[list[str]]:
    """Return each action of a policy as text; empty where the agent does not act.

    Args:
        environment: Value of `env.id`.
        policy: Steps of the policy.

    Returns:
        One list of T texts for each agent.
    """
    texts = []
    for agent in range(len(policy.agents)):
        actions, alive = policy.action[:, agent], policy.alive[:, agent].tolist()
        texts.append(
            [
                _word(environment, policy, policy.agents[agent], action) if acts else ""
                for action, acts in zip(actions, alive, strict=True)
            ]
        )
    return texts


def _word(environment: str, policy: PolicySteps, agent: str, action: Array) -> str:
    if policy.kind != "discrete":
        numbers = np.asarray(action).ravel().tolist()
        return "(" + ", ".join(f"{number:.3g}" for number in numbers) + ")"
    number = int(action)
    if agent.startswith("speaker") or environment.startswith("mpe2.simple_crypto"):
        return f"word {number}"  # these agents do not move
    if environment.startswith(PARTICLES):
        said, push = divmod(number, len(PUSHES))
        return PUSHES[push] + (f", word {said}" if said else "")
    if environment.startswith("smax:"):
        return MOVES[number] if number < len(MOVES) else f"attack enemy {number - len(MOVES)}"
    if environment in COLUMNS:
        return f"column {number + 1}"
    if environment in BOARDS:
        row, column = divmod(number, BOARDS[environment])
        return f"column {column + 1}, row {row + 1}"
    return f"action {number}"
