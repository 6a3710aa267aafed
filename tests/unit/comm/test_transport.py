"""Messages, the layout of rollouts in them, links, and the in-process transport."""

from dataclasses import asdict, dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.algos.batch import join
from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.payload import Payload
from hpcmarl.comm.protocol import (
    HEADER_BYTES,
    ROLE_NAMES,
    Flags,
    Header,
    Kind,
    announced_bytes,
    check_header,
    control,
    masked_vector_of,
    read_header,
    set_team,
    vector_message,
    vector_of,
    write_header,
)
from hpcmarl.comm.transport import LatestLink
from hpcmarl.errors import ProtocolError
from hpcmarl.packing import pack
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.types import Episode, PolicySpec
from tests.support.rollouts import CONTINUOUS, DISCRETE, MULTI_DISCRETE, make_spec, random_rollout
from tests.support.twins import assert_same

SPECS = {
    "plain": make_spec(),
    "masked": make_spec(has_mask=True),
    "turns": make_spec(turn_based=True, agents=2),
    "two policies": make_spec(
        PolicySpec("a", ("a_0", "a_1"), (4, 2), CONTINUOUS),
        PolicySpec("b", ("b_0",), (3,), MULTI_DISCRETE, True),
        state_size=None,
    ),
}


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**32 - 1), st.booleans())
def test_rollout_round_trips_through_a_message(name, steps, slots, seed, with_state):
    spec = SPECS[name]
    rollout = random_rollout(spec, steps, slots, np.random.default_rng(seed), deaths=True)
    rollout.episodes = [
        Episode(0, 3, 12, 1.5, {policy.name: 2.5 for policy in spec.policies}, True, {"win": 1.0})
    ]
    codec = RolloutCodec(spec, with_state=with_state)
    if with_state and rollout.state is None:
        return
    buffer = codec.pack(rollout)
    header = check_header(buffer, 0)
    assert header.kind is Kind.ROLLOUT
    assert (header.version, header.trajectories) == (rollout.version, slots)
    read = RolloutCodec(spec, with_state=with_state).read(buffer.copy(), header.version)
    for array in ("episode_start", "episode_end", "final_index", "first_step", "episode", "slots"):
        np.testing.assert_array_equal(getattr(read, array), getattr(rollout, array))
    if codec.layout(steps, slots).with_state:
        np.testing.assert_array_equal(read.state, rollout.state)
        np.testing.assert_array_equal(read.final_state, rollout.final_state)
    for policy, own in rollout.policies.items():
        for array, value in vars(own).items():
            if value is not None and array != "memory":
                np.testing.assert_array_equal(getattr(read.policies[policy], array), value, err_msg=array)
    assert read.episodes == rollout.episodes
    assert read.actor == rollout.actor


def test_reading_a_rollout_does_not_copy():
    spec = SPECS["plain"]
    codec = RolloutCodec(spec)
    buffer = codec.pack(random_rollout(spec, 4, 3, np.random.default_rng(0)))
    assert np.shares_memory(codec.read(buffer, 0).policies["agent"].obs, buffer)


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=7),
    seed=st.integers(0, 2**32 - 1),
    with_state=st.booleans(),
)
def test_messages_read_together_equal_separate_reads(name, lengths, seed, with_state):
    spec, generator = SPECS[name], np.random.default_rng(seed)
    codec = RolloutCodec(spec, with_state=with_state, memory={policy.name: 3 for policy in spec.policies})
    rollouts = [
        random_rollout(spec, length, 1, generator, deaths=True, whole_episode=True) for length in lengths
    ]
    for version, rollout in enumerate(rollouts):
        rollout.version = 10 - version
        for policy in rollout.policies.values():
            policy.memory = generator.normal(size=(1, policy.alive.shape[2], 3)).astype(np.float32)
    messages = [codec.pack(rollout) for rollout in rollouts]
    together = codec.read_together([codec.open(message) for message in messages])
    assert [rollout.steps for rollout in together] == list(dict.fromkeys(lengths))
    for rollout in together:
        alike = [
            codec.read(message, 0)
            for message, length in zip(messages, lengths, strict=True)
            if length == rollout.steps
        ]
        assert rollout.version == min(
            10 - number for number, length in enumerate(lengths) if length == rollout.steps
        )
        assert_same(asdict(join([rollout])), asdict(join(alike)))
        np.testing.assert_array_equal(rollout.episode, [one.episode[0] for one in alike])


@pytest.mark.parametrize("cut", [HEADER_BYTES - 1, HEADER_BYTES + 3, -1])
def test_damaged_rollout_raises_protocol_error(cut):
    codec = RolloutCodec(SPECS["plain"])
    buffer = codec.pack(random_rollout(SPECS["plain"], 4, 3, np.random.default_rng(0)))
    with pytest.raises(ProtocolError):
        codec.read(buffer[:cut], 0)
    with pytest.raises(ProtocolError):
        codec.read_together([codec.open(buffer), codec.open(buffer[:cut])])


def test_vector_of_wrong_size_raises_protocol_error():
    message = vector_message(Kind.PARAMETERS, np.zeros(5, np.float32), version=3)
    assert vector_of(message, 5) is not None
    with pytest.raises(ProtocolError, match="different networks"):
        vector_of(message, 6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.floats(0, 1))
def test_masked_vector_round_trips_bit_for_bit(seed, size, share):
    generator = np.random.default_rng(seed)
    mask = generator.random(size) < share
    # Random bits include infinities and all kinds of NaN.
    vector = generator.integers(0, 2**32, size, np.uint32).view(np.float32)
    vector[generator.random(size) < 0.2] = -0.0
    vector[generator.random(size) < 0.2] = 0.0
    message = vector_message(Kind.WEIGHTS, vector, mask, version=3)
    assert message.size <= HEADER_BYTES + 4 * size
    found, there = masked_vector_of(message, size)
    if there is None:  # a dense message keeps all values
        assert 4 * (mask.sum() + -(-size // 32)) >= 4 * size
        assert not read_header(message).flags
        np.testing.assert_array_equal(found.view(np.uint32), vector.view(np.uint32))
        return
    assert message.size == HEADER_BYTES + 4 * (mask.sum() + -(-size // 32)) < HEADER_BYTES + 4 * size
    np.testing.assert_array_equal(there, mask)
    np.testing.assert_array_equal(found.view(np.uint32), np.where(mask, vector.view(np.uint32), np.uint32(0)))
    assert read_header(message).version == 3


@pytest.mark.parametrize("size", [70, 100])  # 3 and 4 words of mask bits
@pytest.mark.parametrize(
    "change",
    [
        "cut to the header and a byte",
        "cut in the bits",
        "cut by a number",
        "cut by a byte",
        "longer",
        "more bits",
        "smaller network",
    ],
)
def test_damaged_sparse_vector_raises_protocol_error(size, change):
    mask = np.arange(size) % 7 == 0
    message = vector_message(Kind.WEIGHTS, np.ones(size, np.float32), mask)
    assert read_header(message).flags is Flags.SPARSE
    assert vector_of(message, size).sum() == mask.sum()
    if change == "more bits":
        message[HEADER_BYTES] |= 0x7F
    cuts = {
        "cut to the header and a byte": HEADER_BYTES + 1,
        "cut in the bits": HEADER_BYTES + 6,
        "cut by a number": -4,
        "cut by a byte": -1,
    }
    damaged = np.append(message, np.zeros(4, np.uint8)) if change == "longer" else message[: cuts.get(change)]
    with pytest.raises(ProtocolError, match="different networks"):
        masked_vector_of(damaged, size - 40 if change == "smaller network" else size)


def test_foreign_bytes_raise_protocol_error():
    with pytest.raises(ProtocolError, match="shorter"):
        check_header(np.zeros(3, np.uint8), 1)
    with pytest.raises(ProtocolError, match="mark"):
        check_header(np.zeros(200, np.uint8), 1)
    for place in (4, 12, 16):  # kind, role, addressee
        damaged = control(Kind.REPORT)
        damaged[place : place + 4] = 255  # -1
        with pytest.raises(ProtocolError, match="from rank 1 has a damaged header"):
            check_header(damaged, 1)
    assert announced_bytes(control(Kind.CHUNKED, message_bytes=5000), 1) == 5000
    for absurd in (-1, 10, 1 << 60):
        with pytest.raises(ProtocolError, match=f"rank 1 announces a message of {absurd} bytes"):
            announced_bytes(control(Kind.CHUNKED, message_bytes=absurd), 1)


INTEGERS = st.integers(-(2**63), 2**63 - 1)
SHORT = st.integers(-(2**31), 2**31 - 1)


@given(
    st.builds(
        Header,
        st.sampled_from(Kind),
        source=SHORT,
        role=st.sampled_from(("", *ROLE_NAMES)),
        addressee=st.sampled_from(("", *ROLE_NAMES)),
        exit_code=SHORT,
        group=SHORT,
        team=SHORT,
        version=INTEGERS,
        trajectories=INTEGERS,
        message_bytes=INTEGERS,
        env_steps=INTEGERS,
        agent_steps=INTEGERS,
        staleness=st.floats(allow_nan=False),
        flags=st.integers(0, 63).map(Flags),
    ),
    SHORT,
)
def test_header_round_trips_and_its_team_can_be_set(header, team):
    buffer = write_header(np.full(HEADER_BYTES, 255, np.uint8), header)
    assert check_header(buffer, 3) == header
    set_team(buffer, team)
    assert read_header(buffer) == header._replace(team=team)


@dataclass(frozen=True)
class Note(Payload):
    number: int
    text: str
    values: np.ndarray
    children: dict


def test_payload_round_trips_and_refuses_other_fields():
    note = Note(7, "ä", np.arange(3.0), {"a": [1, None]})
    read = Note.unpack(note.pack())
    assert (read.number, read.text, read.children) == (7, "ä", {"a": [1, None]})
    np.testing.assert_array_equal(read.values, note.values)
    for tree in ({"number": 7}, vars(note) | {"more": 1}):
        with pytest.raises(ProtocolError, match=r"a Note message has wrong fields: .* the same version"):
            Note.unpack(pack(tree))
    with pytest.raises(ProtocolError):
        Note.unpack(b"nothing")


def test_slow_receiver_gets_first_and_newest_message():
    world = LocalWorld(2)
    link = LatestLink(world.transports[0], 1)
    for version in range(10):
        link.offer(control(Kind.WEIGHTS, version=version))
    assert len(world.queues[1]) == 1
    seen = []
    while (message := world.transports[1].receive()) is not None:
        seen.append(message.header.version)
        message.release()
        link.flush()
    assert seen == [0, 9]


def test_send_handle_is_done_only_after_release():
    world = LocalWorld(1)
    handle = world.transports[0].send(0, control(Kind.REPORT))
    message = world.transports[0].receive()
    assert not handle.done()
    message.release()
    assert handle.done()


def test_sums_are_in_rank_order_for_any_arrival_order():
    world = LocalWorld(3)
    for transport in world.transports:
        transport.reduction_group([0, 2], ["here"] * 3, "mpi")
    vectors = {0: np.array([1e8, 1.0], np.float32), 2: np.array([1.0, 2.0], np.float32)}
    late = world.transports[2].start_sum(vectors[2])
    assert late.result() is None
    early = world.transports[0].start_sum(vectors[0])
    np.testing.assert_array_equal(early.result(), vectors[0] + vectors[2])
    np.testing.assert_array_equal(late.result(), early.result())


def test_an_arena_gives_frames_and_outcomes_as_views():
    codec = RolloutCodec(make_spec(action=DISCRETE))
    arena = RolloutArena(codec.layout(3, 2))
    arena.frames[1].policies["agent"].obs[:] = 7.0
    arena.outcomes[2].policies["agent"].reward[:] = 3.0
    _, rollout = arena.finish(5, 1)
    assert (rollout.policies["agent"].obs[1] == 7.0).all()
    assert (rollout.policies["agent"].reward[2] == 3.0).all()
    assert rollout.version == 5
