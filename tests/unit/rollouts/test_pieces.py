"""Pieces of episodes: their lengths, and that learning from all steps equals learning from whole episodes."""

import numpy as np
import pytest

from hpcmarl.algos import maddpg, masac
from hpcmarl.algos.batch import select
from hpcmarl.roles.learner.step_store import StepStore
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.rollouts.pieces import piece_lengths
from tests.support.action_critics import CASES, make
from tests.support.rollouts import make_spec
from tests.support.value_based import episodes

FEED_FORWARD = [case for case in CASES if not getattr(case[2].get("network"), "recurrent", False)]


def pieces_of(spec, whole, decisions=1):
    """Return the pieces of all steps of episodes with one slot each."""
    codec = RolloutCodec(spec, with_state=True)
    store = StepStore(codec, decisions, 1e6)
    for rollout in whole:
        store.add(codec.pack(rollout))
    return store.read(np.arange(store.total))[0]


def single(rollouts):
    return [select(rollout, np.array([slot])) for rollout in rollouts for slot in range(rollout.count)]


@pytest.mark.parametrize(("name", "spec", "keys"), FEED_FORWARD)
def test_all_steps_teach_what_their_episodes_teach(monkeypatch, name, spec, keys):
    """Noise is left out, since its draws depend on the shapes."""
    for module in (maddpg, masac):
        monkeypatch.setattr(module, "gumbel_noise", lambda shape, _: np.zeros(tuple(shape), np.float32))
    monkeypatch.setattr(masac, "gaussian_noise", lambda shape, _: np.ones(tuple(shape), np.float32))
    algorithm = make(name, spec, target_rate=0.5, **keys)
    whole = single(episodes(spec, lengths=(3, 6, 1, 4, 4)))
    pieces = pieces_of(spec, whole, keys.get("n_step", 1))
    steps = sum(rollout.steps for rollout in whole)
    assert sum(piece.count for piece in pieces) == steps
    wanted, found = algorithm.gradient(whole)[0] / len(whole), algorithm.gradient(pieces)[0] / steps
    for part in algorithm.parts:
        assert np.abs(wanted[part.place]).max() > 1e-3, part
        np.testing.assert_allclose(found[part.place], wanted[part.place], atol=2e-5, rtol=2e-4)


def test_pieces_hold_next_rows_and_ends():
    spec = make_spec(has_mask=True)
    whole = single(episodes(spec, lengths=(3, 5), slots=3))
    for rollout in whole:  # everybody acts
        part = rollout.policies["agent"]
        part.alive[: rollout.steps] = True
        part.terminated[:-1], part.truncated[:-1] = False, False
    (pieces,) = pieces_of(spec, whole)
    part, row = pieces.policies["agent"], 0
    finals = dict(zip(pieces.final_index[:, 1].tolist(), part.final_obs, strict=True))
    assert (pieces.steps, pieces.pieces) == (1, True)
    for rollout in whole:
        own = rollout.policies["agent"]
        for step in range(rollout.steps):
            last = step == rollout.steps - 1
            assert pieces.first_step[row] == step
            assert pieces.episode_end[0, row] == rollout.episode_end[step, 0]
            np.testing.assert_array_equal(part.obs[0, row], own.obs[step, 0])
            np.testing.assert_array_equal(part.action[0, row], own.action[step, 0])
            np.testing.assert_array_equal(part.reward[0, row], own.reward[step, 0])
            if not last:
                np.testing.assert_array_equal(part.obs[1, row], own.obs[step + 1, 0])
                np.testing.assert_array_equal(part.action_mask[1, row], own.action_mask[step + 1, 0])
            assert (row in finals) == (last and rollout.episode_end[-1, 0] == 2)
            if row in finals:
                np.testing.assert_array_equal(finals[row], own.final_obs[0])
            row += 1
    assert row == pieces.count


def test_lengths_reach_the_next_decisions():
    """Agent 0 acts in steps 0, 2 and 3; agent 1 acts in all steps and ends in step 2."""
    spec = make_spec(agents=2)
    (rollout,) = single(episodes(spec, lengths=(5,)))[:1]
    part = rollout.policies["agent"]
    part.alive[:5, 0] = np.array([[1, 1], [0, 1], [1, 1], [1, 0], [0, 0]], bool)
    part.terminated[:], part.truncated[:] = False, False
    part.terminated[2, 0, 1] = True
    codec = RolloutCodec(spec)
    message = codec.open(codec.pack(rollout))
    assert piece_lengths(message, 1).tolist() == [2, 1, 1, 2, 1]
    assert piece_lengths(message, 2).tolist() == [3, 2, 3, 2, 1]
    part.alive[:5] = True
    assert piece_lengths(codec.open(codec.pack(rollout)), 1) is None
