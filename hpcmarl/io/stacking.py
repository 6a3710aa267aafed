"""Stacking of many similar trees into one tree of arrays, and back.

Checkpoints store the states of actors this way: a thousand states take about twenty HDF5 objects. Trees of
the same form (keys, kinds of values, types and dimensions of arrays) are stacked together; each form has a
separate stack. Every leaf becomes a dictionary with one key, which names the way in which the leaf is
stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.packing import Tree, plain

_BIG = 17  # bytes of an integer of up to 128 bits with its sign
_SMALL = 1 << 63
MARK = "stacks"


def stack(trees: Mapping[str, Tree]) -> dict[str, Tree]:
    """Stack named trees.

    Args:
        trees: Name -> tree (hpcmarl.packing).

    Returns:
        A tree with the key MARK. `unstack` restores the trees from it. It shares no array with them.

    Raises:
        TypeError: If a tree cannot hold one of the values.
    """
    forms: dict[Any, list[str]] = {}
    for name, tree in trees.items():
        forms.setdefault(_form(tree), []).append(name)
    return {
        MARK: [
            {"names": names, "tree": _stacked([trees[name] for name in names])} for names in forms.values()
        ]
    }


def unstack(stacked: Mapping[str, Any]) -> dict[str, Tree]:
    """Restore the trees that were stacked.

    Raises:
        KeyError, TypeError, ValueError or IndexError: If `stacked` does not come from `stack`.
    """
    trees: dict[str, Tree] = {}
    for each in stacked[MARK]:
        names = [str(name) for name in each["names"]]
        trees |= dict(zip(names, _unstacked(each["tree"], len(names)), strict=True))
    return trees


def _form(value: Tree) -> Any:
    """Return a hashable description of a tree; trees with the same one can be stacked."""
    value = plain(value)
    if isinstance(value, dict):
        return ("dict", *((key, _form(item)) for key, item in sorted(value.items())))
    if isinstance(value, (list, tuple)):
        return ("list", *map(_form, value))
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.ndim)
    if isinstance(value, int) and not isinstance(value, bool):
        return "int"
    return "none" if value is None else type(value).__name__


def _stacked(values: Sequence[Tree]) -> dict[str, Tree]:
    first = plain(values[0])
    if isinstance(first, dict):
        return {"dict": {key: _stacked([value[key] for value in values]) for key in first}}
    if isinstance(first, (list, tuple)):
        return {"list": [_stacked([value[place] for value in values]) for place in range(len(first))]}
    if isinstance(first, np.ndarray):
        return _stacked_arrays(values)
    own = [plain(value) for value in values]
    if all(value == first for value in own):
        return {"same": first}
    if isinstance(first, str):
        return {"text": own}
    if isinstance(first, (bool, float)):
        return {type(first).__name__: np.array(own)}
    if all(-_SMALL <= value < _SMALL for value in own):
        return {"int": np.array(own, np.int64)}
    return {
        "big": np.frombuffer(b"".join(value.to_bytes(_BIG, "little", signed=True) for value in own), np.uint8)
        .reshape(-1, _BIG)
        .copy()
    }


def _stacked_arrays(values: Sequence[Any]) -> dict[str, Tree]:
    if len({value.shape for value in values}) == 1:
        return {"array": np.stack(values)}
    shapes = np.array([value.shape for value in values], np.int64)
    return {"ragged": {"values": np.concatenate([value.reshape(-1) for value in values]), "shapes": shapes}}


def _unstacked(stacked: Mapping[str, Any], count: int) -> list[Tree]:
    (kind, content), *more = stacked.items()
    if more:
        raise ValueError(f"a stacked value has the keys {', '.join(stacked)}; one is allowed")
    if kind == "dict":
        columns = {key: _unstacked(item, count) for key, item in content.items()}
        return [{key: column[place] for key, column in columns.items()} for place in range(count)]
    if kind == "list":
        parts = [_unstacked(item, count) for item in content]
        return [[part[place] for part in parts] for place in range(count)]
    if kind == "same":
        return [content] * count
    if kind == "ragged":
        return _ragged(np.asarray(content["values"]), np.asarray(content["shapes"], np.int64), count)
    if kind not in ("array", "text", "bool", "float", "int", "big") or len(content) != count:
        raise ValueError(f"a stacked value of kind {kind!r} does not have {count} parts")
    if kind == "array":
        return [np.array(value) for value in content]
    if kind == "big":
        return [
            int.from_bytes(bytes(value), "little", signed=True) for value in np.asarray(content, np.uint8)
        ]
    return list(content) if kind == "text" else np.asarray(content).tolist()


def _ragged(values: Any, shapes: Any, count: int) -> list[Tree]:
    sizes = shapes.prod(axis=1)
    if shapes.shape[0] != count or (shapes < 0).any() or sizes.sum() != values.size:
        raise ValueError("the shapes of stacked arrays do not match their values")
    ends = np.cumsum(sizes).tolist()
    return [
        values[end - size : end].reshape(shape).copy()
        for end, size, shape in zip(ends, sizes.tolist(), shapes.tolist(), strict=True)
    ]
