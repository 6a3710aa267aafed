"""Conversion of observations to arrays of a policy's type; no environment package is needed.

An observation is one array, or a record with one field for each leaf of a Dict or Tuple space. Integers never
wrap: a number that the type cannot hold is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.types import Array, ObservationPart, PolicySpec

NUMBERS = "biuf"  # kinds of numpy types that become numbers


class MisfitError(Exception):
    """An observation does not fit its space; the message continues "agent NAME observes"."""


@dataclass(frozen=True)
class Leaf:
    """One array of an observation.

    Attributes:
        path: Keys and places that lead to it, from outside to inside; empty: the observation itself.
        shape: Shape of the array for the policy.
        dtype: Its type.
        encode: Conversion of the value in the environment; None: it is an array of this shape.
    """

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    encode: Callable[[Any], Array] | None = None

    @property
    def key(self) -> str:
        """Key of the leaf in a record."""
        return "/".join(map(str, self.path))

    def read(self, observation: Any) -> Array:
        """Return the leaf of an observation.

        Raises:
            MisfitError: If the observation does not fit.
        """
        value = observation
        for depth, step in enumerate(self.path, 1):
            try:
                value = _entry(value, step)
            except (KeyError, IndexError, TypeError, ValueError):
                key = "/".join(map(str, self.path[:depth]))
                raise MisfitError(f"no key {key} in {_shown(observation)}") from None
        try:
            return fitted(value, self.shape, self.dtype) if self.encode is None else self.encode(value)
        except MisfitError as error:
            if self.path:
                raise MisfitError(f"at key {self.key} {error}") from None
            raise


@dataclass(frozen=True)
class ObservationView:
    """Way in which an observation is read.

    Attributes:
        leaves: Arrays of the observation. A single leaf without a path is an observation that is no record.
        has_mask: Whether the observation contains an action mask.
        inside: Key that holds the observation beside the action mask; None: the observation is not wrapped.
    """

    leaves: tuple[Leaf, ...]
    has_mask: bool = False
    inside: str | None = None

    @property
    def record(self) -> bool:
        """Whether the observation is a record."""
        return bool(self.leaves[0].path)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the observation for the policy; () for records."""
        return () if self.record else self.leaves[0].shape

    @property
    def type(self) -> str:
        """Name of the numpy type of an observation that is no record."""
        return "float32" if self.record else self.leaves[0].dtype.name

    @property
    def parts(self) -> tuple[ObservationPart, ...]:
        """Entries of a record; empty if the observation is one array."""
        if not self.record:
            return ()
        return tuple(ObservationPart(leaf.key, leaf.shape, leaf.dtype.name) for leaf in self.leaves)

    @property
    def plain(self) -> bool:
        """Whether the environment gives arrays of the policy's shape."""
        return not self.record and self.inside is None and self.leaves[0].encode is None

    def read(self, observation: Any, dtype: np.dtype[Any]) -> Array:
        """Return an observation as an array.

        Args:
            observation: The observation, as the environment gives it.
            dtype: The policy's type. Fields of a record may have another order than `leaves`.

        Returns:
            Shape as `shape`; of type `dtype` if that holds integers or a record, else of any type of numbers.

        Raises:
            MisfitError: If the observation does not fit.
        """
        if self.inside is not None:
            try:
                observation = observation[self.inside]
            except (KeyError, IndexError, TypeError, ValueError):
                raise MisfitError(f"no key {self.inside} in {_shown(observation)}") from None
        if not self.record:
            return self.leaves[0].read(observation)
        record: Array = np.empty((), dtype)
        for leaf in self.leaves:
            record[leaf.key] = leaf.read(observation)
        return record


def view_of_policy(policy: PolicySpec) -> ObservationView:
    """Return how to read observations that are given in the form of a policy.

    Records are nested mappings and sequences of their entries, as in the space that they come from.
    """
    if not policy.observation_parts:
        return ObservationView((Leaf((), policy.observation_shape, policy.observation_dtype),))
    return ObservationView(
        tuple(
            Leaf(tuple(part.key.split("/")), part.shape, np.dtype(part.dtype))
            for part in policy.observation_parts
        )
    )


def _entry(value: Any, step: Any) -> Any:
    """Return an entry of a mapping by its key, or of a sequence by its place."""
    return value[int(step)] if isinstance(value, (tuple, list)) else value[step]


def fitted(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a value as an array, unless it has another shape or numbers that its type cannot hold.

    Args:
        value: An array or nested sequence.
        shape: Its shape.
        dtype: Type for the policy. Any numbers become float ones. Integers must fit, and no float number
            becomes an integer.

    Returns:
        The array. An array of numbers is not converted if `dtype` is a float type.

    Raises:
        MisfitError: If the value does not fit.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise MisfitError(f"{_shown(value)}; its observation space has the shape {shape}") from None
    if array.shape != shape:
        raise MisfitError(f"an array of shape {array.shape}; its observation space has the shape {shape}")
    kind = array.dtype.kind
    if array.dtype == dtype or (dtype.kind == "f" and kind in NUMBERS):
        return array
    if dtype.kind != "f" and kind in "biu":
        _check_range(array, dtype)
        return array.astype(dtype)
    if dtype.kind == "f" and kind == "O":
        try:
            return array.astype(dtype)
        except (TypeError, ValueError):
            pass
    raise MisfitError(
        f"{'numbers' if kind in NUMBERS else 'values'} of type {array.dtype}; its observation space has the "
        f"type {dtype}"
    )


def _check_range(array: Array, dtype: np.dtype[Any]) -> None:
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    for number in (int(array.min()), int(array.max())) if array.size else ():
        if not low <= number <= high:
            raise MisfitError(f"the number {number}; its observation space has {low} to {high} ({dtype})")


def one_hot(value: Any, sizes: Array, starts: Array) -> Array:
    """Return whole numbers as one-hot numbers, one after the other.

    Args:
        value: Numbers, as many as `sizes`.
        sizes: How many values each of them can have.
        starts: Least value of each.

    Returns:
        Shape [sum of sizes] float32.

    Raises:
        MisfitError: If the value does not fit.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.zeros(0)
    if array.size != sizes.size or array.dtype.kind not in "biu":
        what = "a whole number" if sizes.size == 1 else f"{sizes.size} whole numbers"
        raise MisfitError(f"{_shown(value)}; its observation space has {what}")
    places = array.reshape(-1).astype(np.int64) - starts
    wrong = np.flatnonzero((places < 0) | (places >= sizes))
    if len(wrong):
        first, least = int(wrong[0]), int(starts[wrong[0]])
        raise MisfitError(
            f"the number {array.reshape(-1)[first]}; its observation space has {least} to "
            f"{least + int(sizes[first]) - 1}"
        )
    encoded = np.zeros(int(sizes.sum()), np.float32)
    encoded[np.cumsum(sizes) - sizes + places] = 1.0
    return encoded


def _shown(value: Any) -> str:
    """Describe a value of a wrong form in a few words."""
    if isinstance(value, Mapping):
        return f"a dictionary with the keys {', '.join(map(str, value)) or '(none)'}"
    if isinstance(value, np.ndarray):
        return f"an array of type {value.dtype} and shape {value.shape}"
    if isinstance(value, (bool, int, float, np.generic)):
        return f"the value {value}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)} entries"
    return f"a value of type {type(value).__name__}"
