"""Model card of trained policies, in Markdown. Every statement comes from the files of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpcmarl.config.file import dump_config
from hpcmarl.config.yaml_text import inline, parse
from hpcmarl.errors import HpcmarlError
from hpcmarl.evaluation import Trained
from hpcmarl.io.atomic import write_text
from hpcmarl.io.run_state import RunState, read_run_state
from hpcmarl.io.starts import read_starts
from hpcmarl.nets.encoder_shapes import CNNShape, DictShape, EncoderShape, EntitiesShape
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import ActionSpace, ObservationPart, PolicySpec

ENCODERS: dict[type[EncoderShape], str] = {
    CNNShape: "convolutions",
    DictShape: "an encoder for each entry",
    EntitiesShape: "attention over entities",
}

SECTIONS = ("algo", "optimizer", "rounds")  # of the configuration, in the card


def write_card(trained: Trained, run: Path | None, path: Path, member: str | None) -> dict[str, Any]:
    """Write a model card.

    Args:
        trained: The policies.
        run: Their run directory; None for a checkpoint outside one.
        path: File to create.
        member: Member or snapshot of a league; None: the run is no league.

    Returns:
        path and bytes (size of the file).

    Raises:
        StorageError: If the file cannot be written.
    """
    state = None if run is None else read_run_state(run)
    summary = (None if state is None else state.summary) or {}
    facts = _newest_start(run)
    text = "\n".join(
        [
            f"# {trained.config.name}" + (f", {member}" if member else ""),
            "",
            f"Policies for {trained.config.env.id}, trained with {trained.config.algo.name} in hpcmarl"
            + (f" {facts['hpcmarl_version']}." if "hpcmarl_version" in facts else "."),
            "",
            *_model(trained),
            *_training(trained, facts, state, summary),
            *_evaluation(trained, summary, member),
            *_configuration(trained),
            *_loading(trained, run, member),
            *_limits(trained),
        ]
    )
    write_text(path, text)
    return {"path": str(path), "bytes": path.stat().st_size}


def _table(heading: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines] + [""]


def _cell(value: object) -> str:
    form = {int: ",", float: ".6g"}.get(type(value), "")
    return format(value, form).replace("|", "\\|") if form else str(value).replace("|", "\\|")


def _model(trained: Trained) -> list[str]:
    rows = []
    for policy in trained.spec.policies:
        shape = trained.algorithm.design.policies[policy.name]
        named = trained.algorithm.named_parameters()
        size = sum(named[name].size for name in trained.algorithm.acting_parameters(policy.name))
        kind = _network(shape)
        agents = ", ".join(policy.agents[:4]) + (
            f", … ({len(policy.agents)})" if len(policy.agents) > 4 else ""
        )
        mask = ", masked" if policy.has_mask else ""
        rows.append(
            (
                policy.name,
                agents,
                _observation(policy),
                _action(policy.action) + mask,
                kind,
                size,
            )
        )
    return [
        "## Policies",
        "",
        *_table(("policy", "agents", "observation", "actions", "network", "parameters"), rows),
    ]


def _network(shape: PolicyShape) -> str:
    """Describe a policy's network in a few words."""
    memory = "recurrent" if shape.width else "feed-forward"
    if shape.module is not None:
        return f"{memory} module {shape.config.module}"
    names = {"gru": "GRU", "lstm": "LSTM", "mlp": memory}
    encoder = "" if shape.encoder is None else f"{ENCODERS[type(shape.encoder)]}, "
    return encoder + names[shape.config.body]


def _observation(policy: PolicySpec) -> str:
    parts = policy.observation_parts or (
        ObservationPart("", policy.observation_shape, policy.observation_type),
    )
    shown = []
    for part in parts:
        dtype = "" if part.dtype == "float32" else f"{part.dtype} "
        shown.append(f"{part.key} {dtype}{list(part.shape)}".strip())
    return ", ".join(shown)


def _action(action: ActionSpace) -> str:
    if action.kind == "discrete":
        return f"{action.sizes[0]} discrete"
    sizes = " × ".join(map(str, action.sizes))
    return f"{sizes} discrete" if action.kind == "multi_discrete" else f"{sizes} continuous"


def _training(
    trained: Trained, facts: Mapping[str, Any], state: RunState | None, summary: Mapping[str, Any]
) -> list[str]:
    env = trained.config.env
    rows: list[tuple[object, ...]] = [("environment", f"`{env.id}`")]
    rows += [("its arguments", f"`{inline(dict(env.kwargs))}`")] if env.kwargs else []
    rows += [("checkpoint", f"`{trained.checkpoint.name}`"), ("its updates", trained.version)]
    keys = {"env_steps": "environment steps", "agent_steps": "agent steps", "episodes": "episodes"}
    rows += [(f"{name} of the run", summary[key]) for key, name in keys.items() if key in summary]
    rows += [("training time of the run, seconds", float(summary["seconds"]))] if "seconds" in summary else []
    rows += [("ranks", summary["ranks"])] if "ranks" in summary else []
    rows += [("starts", state.starts)] if state is not None and state.starts else []
    rows += [("state of the run", state.state)] if state is not None else []
    machine = {"host": "host of the server", "library": "MPI library"}
    rows += [(name, facts[key]) for key, name in machine.items() if facts.get(key)]
    versions = ", ".join(f"{name} {version}" for name, version in summary.get("versions", {}).items())
    rows += [("versions", versions)] if versions else []
    note = (
        []
        if summary or state is None
        else ["The newest start of the run has written no summary, so that its totals are unknown.", ""]
    )
    return ["## Training", "", *_table(("fact", "value"), rows), *note]


def _newest_start(run: Path | None) -> dict[str, Any]:
    """Return the facts of the newest start of a run, such as host and version; empty if none is recorded."""
    starts = {}
    if run is not None:
        with contextlib.suppress(HpcmarlError):
            starts = read_starts(run)
    return dict(starts[max(starts)].facts) if starts else {}


def _evaluation(trained: Trained, summary: Mapping[str, Any], member: str | None) -> list[str]:
    found = summary.get("evaluation")
    lines = ["## Evaluation", ""]
    if member is not None:
        return [*lines, "`hpcmarl league show` prints the ratings and payoffs of this snapshot.", ""]
    if not isinstance(found, dict) or found.get("return_mean") is None:
        return [*lines, "The run has stored no evaluation. `hpcmarl eval RUN` plays one.", ""]
    settings = trained.config.eval
    how = "greedily" if settings.greedy else "by sampling"
    lines += [
        f"{found.get('episodes')} episodes at update {found.get('version')}, with actions chosen {how}. "
        "The return of an episode is the sum over steps of the mean reward over all agents.",
        "",
    ]
    names = {
        "return_mean": "mean return",
        "return_std": "standard deviation",
        "return_sem": "standard error of the mean",
        "win_rate": "share of won episodes",
        "length_mean": "mean length, steps",
    }
    rows = [(name, found[key]) for key, name in names.items() if found.get(key) is not None]
    returns = found.get("returns") or {}
    rows += [(f"mean return of {name}", value) for name, value in returns.items()] if len(returns) > 1 else []
    return [*lines, *_table(("figure", "value"), rows)]


def _configuration(trained: Trained) -> list[str]:
    tree = parse(dump_config(trained.config), "the configuration")[0]
    rows = [
        (f"`{section}.{key}`", f"`{inline(value)}`")
        for section in SECTIONS
        for key, value in (tree.get(section) or {}).items()
        if value is not None
    ]
    return ["## Configuration", "", f"Seed {trained.config.seed}.", "", *_table(("key", "value"), rows)]


def _loading(trained: Trained, run: Path | None, member: str | None) -> list[str]:
    place = trained.checkpoint if run is None else run
    named = "" if member is None else f", member={member!r}"
    return [
        "## Use",
        "",
        "```python",
        "import hpcmarl",
        f"policy = hpcmarl.load_policy({str(place)!r}{named})",
        "actions = policy.act(observations)  # agent -> observation; policy.reset() before each episode",
        "```",
        "",
    ]


def _limits(trained: Trained) -> list[str]:
    return [
        "## Limits",
        "",
        "- The policies take the agents, observations and actions of the table above, and no others.",
        f"- Loading them in Python builds `{trained.config.env.id}`, whose package must be installed.",
        "- The run evaluates its policies in the environments that it trains in, and in no others.",
        "",
    ]
