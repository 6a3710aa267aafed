"""The codec keeps a bounded number of layouts for any lengths of episodes."""

from __future__ import annotations

import numpy as np
import pytest

from hpcmarl.rollouts import codec as codecs
from hpcmarl.rollouts.codec import RolloutCodec
from tests.support.rollouts import make_spec, random_rollout


def test_layouts_of_many_lengths_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "MOST_LAYOUTS", 5)
    codec = RolloutCodec(make_spec())
    for steps in range(1, 40):
        codec.layout(steps, 1)
        codec.layout(1, 1)
    assert len(codec._layouts) == 5
    assert (1, 1) in codec._layouts


def test_messages_of_forgotten_layouts_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "MOST_LAYOUTS", 1)
    codec = RolloutCodec(make_spec())
    generator = np.random.default_rng(0)
    opened = [codec.open(codec.pack(random_rollout(make_spec(), steps, 1, generator))) for steps in (4, 5, 4)]
    assert opened[0].layout is not opened[2].layout
    together = codec.read_together(opened)
    assert sorted((rollout.steps, rollout.count) for rollout in together) == [(4, 2), (5, 1)]
