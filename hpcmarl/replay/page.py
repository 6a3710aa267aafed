"""A page that plays an episode: one HTML file without any reference to the network."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from hpcmarl.envs.drawing import COLOURS, KINDS, Scene, Shape
from hpcmarl.replay.pictures import Pictures, data_uri
from hpcmarl.replay.recording import PolicySteps, Recording, Scenes
from hpcmarl.replay.words import action_words
from hpcmarl.types import Array, flat_observations

STRIP_FEATURES, STRIP_BYTES = 512, 600_000  # limits of the generic view of a policy
END_WORDS = {
    "terminated": "terminated",
    "truncated": "truncated",
    "failed": "cut off, since the environment failed",
}


def render_page(recording: Recording) -> str:
    """Return the page of an episode."""
    template = resources.files("hpcmarl.replay") / "template"
    # "<" could end the script element; JSON allows the escape.
    data = json.dumps(page_data(recording), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    parts = {
        "TITLE": html.escape(title_of(recording)),
        "STYLE": (template / "page.css").read_text("utf-8"),
        "SCRIPT": (template / "page.js").read_text("utf-8"),
        "DATA": data,
    }
    return re.sub(
        "@(TITLE|STYLE|SCRIPT|DATA)@",
        lambda mark: parts[mark[1]],
        (template / "page.html").read_text("utf-8"),
    )


def title_of(recording: Recording) -> str:
    """Return the heading of an episode."""
    number = recording.facts.get("source", "episode")
    return f"{recording.environment}: {number}"


def page_data(recording: Recording) -> dict[str, Any]:
    """Return everything that the script of the page shows, as plain values.

    Returns:
        rewards hold [agent][step] exactly, so that their sums are the returns. words holds each different
        action once, and actions [agent][step] are places in it.
    """
    texts = [text for policy in recording.policies for text in action_words(recording.environment, policy)]
    words = sorted({word for text in texts for word in text})
    places = {word: place for place, word in enumerate(words)}
    facts: dict[str, str | int | float] = {
        "return (mean of agents)": f"{recording.return_mean:.6g}",
        "steps": recording.steps,
        "end": END_WORDS[recording.end],
    }
    if recording.won is not None:
        facts["won"] = "yes" if recording.won else "no"
    facts |= recording.facts
    return {
        "title": title_of(recording),
        "facts": [[name, str(value)] for name, value in facts.items()],
        "notes": recording.notes,
        "steps": recording.steps,
        "end": END_WORDS[recording.end],
        "agents": [
            {"name": agent, "policy": policy.name} for policy in recording.policies for agent in policy.agents
        ],
        "words": words,
        "actions": [[places[word] for word in text] for text in texts],
        "rewards": [_numbers(rewards, 9) for rewards in recording.rewards.T],
        "extras": _extras(recording.policies),
        "colours": COLOURS,
        "drawn": _drawn(recording.drawn),
        "strips": None if recording.drawn is not None else [_strip(own) for own in recording.policies],
    }


def _numbers(values: Array, digits: int) -> list[float | None]:
    """Return numbers with some significant digits; 9 keep a float32. None: not finite."""
    return [
        float(f"{value:.{digits}g}") if math.isfinite(value) else None
        for value in values.astype(float).tolist()
    ]


def _extras(policies: Sequence[PolicySteps]) -> list[dict[str, Any]]:
    """Return further columns of the table of agents: probabilities of actions, and values."""
    found = []
    if all(policy.logp is not None for policy in policies):
        name = "Density" if any(policy.kind == "continuous" for policy in policies) else "Prob."
        columns = [np.exp(np.asarray(policy.logp, float)).T for policy in policies]
        found.append({"name": name, "values": [_numbers(own, 4) for own in np.concatenate(columns)]})
    if all(policy.value is not None for policy in policies):
        columns = [np.asarray(policy.value, float).T for policy in policies]
        found.append({"name": "Value", "values": [_numbers(own, 5) for own in np.concatenate(columns)]})
    return found


def _drawn(drawn: Scenes | Pictures | None) -> dict[str, Any] | None:
    if drawn is None:
        return None
    if isinstance(drawn, Pictures):
        uris = [data_uri(drawn.pixels(number)) for number in range(len(drawn.kept))]
        return {"kind": "pictures", "every": drawn.every, "frames": drawn.places, "pictures": uris}
    frames = [[_shape(shape) for shape in scene.shapes] for scene in drawn.scenes]
    return {"kind": "scenes", "every": drawn.every, "frames": frames, "view": whole_view(drawn.scenes)}


def _shape(shape: Shape) -> list[Any]:
    """Return a shape as a short list; the last parts are left out if they are empty."""
    level = None if shape.level is None else round(shape.level, 3)
    numbers = [round(value, 3) for value in (shape.x, shape.y, shape.a, shape.b)]
    parts = [KINDS.index(shape.kind), COLOURS.index(shape.colour), *numbers, shape.label, level]
    while parts[-1] in (None, "", 0.0) and len(parts) > 5:
        parts.pop()
    return parts


def whole_view(scenes: Sequence[Scene]) -> tuple[float, float, float, float]:
    """Return the part of the plane that holds the views and the discs of all scenes."""
    boxes = [scene.view for scene in scenes]
    boxes += [
        (shape.x - shape.a, shape.y - shape.a, shape.x + shape.a, shape.y + shape.a)
        for scene in scenes
        for shape in scene.shapes
        if shape.kind == "disc"
    ]
    left, bottom, right, top = (
        round(float(reduce(side)), 3)
        for reduce, side in zip((min, min, max, max), zip(*boxes, strict=True), strict=True)
    )
    return left, bottom, right, top


def _strip(policy: PolicySteps) -> dict[str, Any]:
    """Return the observations of a policy as bytes, for the generic view.

    Each element of an observation is scaled to its own range. Long episodes are thinned; observations with
    more than STRIP_FEATURES elements are left out.
    """
    flat = flat_observations(policy.obs, 2).astype(np.float64)
    features = flat.shape[2]
    if not 0 < features <= STRIP_FEATURES:
        return {"agents": [], "features": 0, "columns": 0, "values": ""}
    flat = np.nan_to_num(flat[:: -(-flat.size // STRIP_BYTES)])
    low, high = flat.min((0, 1)), flat.max((0, 1))
    scaled = np.rint(255 * (flat - low) / np.where(high > low, high - low, 1.0)).astype(np.uint8)
    values = base64.b64encode(scaled.tobytes()).decode()
    return {"agents": list(policy.agents), "features": features, "columns": len(flat), "values": values}
