"""Random numbers of JAX's threefry generator without loops: the same bits in less time.

On the CPU, JAX computes the twenty rounds of each draw in a loop. The loop costs a dozen small kernels and
copies in each pass. Here the rounds are one expression, which XLA fuses into one kernel.

Source:
    Salmon et al., SC 2011.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

# bits of each rotation; the two groups alternate
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
# number of key injections, one after every four rounds
INJECTIONS = 5


def key_of(seed: Any) -> Any:
    """Return the key that corresponds to jax.random.PRNGKey(seed), for the functions of jax.random.

    Args:
        seed: Seed, uint32.
    """
    return jax.random.key(seed, impl=_GENERATOR)


def _hash(key: Any, counts: Any) -> tuple[Any, Any]:
    """Return Threefry-2x32 of the counts (0, counts).

    Args:
        key: Key, uint32 [2].
        counts: Counters, uint32.

    Returns:
        Both halves, in the shape of `counts`.
    """
    parts = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    left, right = jnp.broadcast_to(parts[0], counts.shape), counts + parts[1]
    for injection in range(INJECTIONS):
        for bits in ROTATIONS[injection % 2]:
            left = left + right
            right = (right << np.uint32(bits) | right >> np.uint32(32 - bits)) ^ left
        left = left + parts[(injection + 1) % 3]
        right = right + parts[(injection + 2) % 3] + np.uint32(injection + 1)
    return left, right


def _once(keys: Any) -> Any:
    """Return the keys unchanged, but computed only once.

    Without the barrier XLA would compute them again in each kernel that draws from them, for each half.
    """
    hold: Any = jax.lax.optimization_barrier
    return hold(keys)


def _counts(shape: tuple[int, ...]) -> Any:
    return jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)


def _seed(seed: Any) -> Any:
    return jnp.stack([jnp.uint32(0), seed.astype(jnp.uint32)])


def _split(key: Any, shape: tuple[int, ...]) -> Any:
    return _once(jnp.stack(_hash(key, _counts(shape)), -1))


def _fold_in(key: Any, data: Any) -> Any:
    return _once(jnp.stack(_hash(key, jnp.asarray(data, jnp.uint32))))


def _random_bits(key: Any, width: int, shape: tuple[int, ...]) -> Any:
    left, right = _hash(key, _counts(shape))
    if width > 32:
        return left.astype(f"uint{width}") << 32 | right
    return (left ^ right).astype(f"uint{width}")


_GENERATOR = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_without_loops",
    tag="fry_flat",
)
