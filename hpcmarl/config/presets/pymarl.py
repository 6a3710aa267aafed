"""QMIX, VDN and COMA as in oxwhirl/pymarl: its default.yaml with the changes of each algorithm's file."""

from hpcmarl.config.presets.preset import Gap, Preset, Setting

DEFAULT = "src/config/default.yaml"
QMIX_YAML = "src/config/algs/qmix.yaml"
VDN_YAML = "src/config/algs/vdn.yaml"
COMA_YAML = "src/config/algs/coma.yaml"
CONTROLLER = "src/controllers/basic_controller.py"
Q_LEARNER = "src/learners/q_learner.py"
COMA_LEARNER = "src/learners/coma_learner.py"
COMA_CRITIC = "src/modules/critics/coma.py"
MIXER = "src/modules/mixers/qmix.py"
RUN = "src/run.py"

REPOSITORY = "oxwhirl/pymarl"
COMMITS = {
    DEFAULT: "eaf6b063822e2bdf1992d72dc159a500f235dbc4",
    CONTROLLER: "eaf6b063822e2bdf1992d72dc159a500f235dbc4",
    Q_LEARNER: "023de7ed5bc2840257e9a0dac8d33e0f3919fd4a",
    RUN: "2159aaa4a97f3831eef7f04982a3523f140dc8b6",
}

# settings of all three presets
AGENTS: dict[str, Setting] = {
    "algo.discount": Setting(0.99, f"{DEFAULT}: gamma 0.99"),
    "algo.agent_id": Setting(True, f"{DEFAULT}: obs_agent_id True"),
    "algo.normalise_observations": Setting(False, f"{CONTROLLER}: observations are not normalised"),
    "algo.network.hidden": Setting([64], f"{DEFAULT}: rnn_hidden_dim 64", "one layer before the GRU"),
    "algo.network.activation": Setting("relu", f"{DEFAULT}: agent rnn"),
    "algo.network.body": Setting("gru", f"{DEFAULT}: agent rnn"),
    "algo.network.memory": Setting(64, f"{DEFAULT}: rnn_hidden_dim 64"),
    "optimizer.name": Setting("rmsprop", f"{DEFAULT}: optim_alpha, optim_eps of RMSprop"),
    "optimizer.step_size": Setting(5e-4, f"{DEFAULT}: lr 0.0005"),
    "optimizer.decay": Setting(0.99, f"{DEFAULT}: optim_alpha 0.99"),
    "optimizer.epsilon": Setting(1e-5, f"{DEFAULT}: optim_eps 0.00001"),
    "optimizer.max_gradient_norm": Setting(10.0, f"{DEFAULT}: grad_norm_clip 10"),
}
LAST_ACTION = Gap(
    "the last action is an input of the agents (obs_last_action)",
    "the last action is no input",
    f"{DEFAULT}: obs_last_action True",
    "algo.obs_last_action=true",
)


def _replayed(yaml: str) -> dict[str, Setting]:
    """Return the settings that QMIX and VDN share.

    Args:
        yaml: The algorithm's file in the repository, for the sources.
    """
    return {
        **AGENTS,
        "algo.obs_last_action": Setting(True, f"{DEFAULT}: obs_last_action True"),
        "algo.n_step": Setting(1, f"{Q_LEARNER}: one-step targets"),
        "algo.double_q": Setting(True, f"{yaml}: double_q True"),
        "algo.operator": Setting("max", f"{Q_LEARNER}: the value of the best action"),
        "algo.trace_lambda": Setting(0.0, f"{Q_LEARNER}: one-step targets"),
        "algo.target_every": Setting(
            200,
            f"{yaml}: target_update_interval 200",
            "counted in episodes there and in versions here; one episode for each update",
        ),
        "algo.target_rate": Setting(None, f"{Q_LEARNER}: copies, no moving average"),
        "algo.epsilon_start": Setting(1.0, f"{yaml}: epsilon_start 1.0"),
        "algo.epsilon_final": Setting(0.05, f"{yaml}: epsilon_finish 0.05"),
        "algo.epsilon_steps": Setting(50_000, f"{yaml}: epsilon_anneal_time 50000"),
        "algo.replay.episodes": Setting(5000, f"{yaml}: buffer_size 5000"),
        "algo.replay.learning_starts": Setting(32, f"{RUN}: can_sample(batch_size)"),
        "algo.replay.samples_per_insert": Setting(
            32.0, f"{RUN}: a batch of 32 after every episode", "batch_size / batch_size_run"
        ),
        "algo.replay.recent": Setting(0, f"{RUN}: one buffer with uniform draws"),
        "rounds.batch": Setting(32, f"{DEFAULT}: batch_size 32", "episodes of a gradient"),
        "rounds.backpressure": Setting(True, f"{RUN}: sampling and learning alternate"),
        "topology.environments_per_actor": Setting(1, f"{DEFAULT}: batch_size_run 1"),
    }


REPLAYED_GAPS = (
    Gap(
        "values of dead agents' no-op actions are part of the team's value",
        "they count as 0",
        f"{Q_LEARNER}: the mixer gets all agents",
    ),
)

QMIX = Preset(
    name="qmix",
    summary="recurrent agents, a batch of 32 replayed episodes after every episode",
    paper="arXiv 1803.11485, 1902.04043",
    repository=REPOSITORY,
    files={
        **COMMITS,
        # This copy runs 32 environments in parallel. Its other values agree with oxwhirl/wqmix,
        # src/config/algs/qmix_w.yaml at 1d140d8.
        QMIX_YAML: "76286f588589995b17d5895068dd083522d44b52",
        MIXER: "023de7ed5bc2840257e9a0dac8d33e0f3919fd4a",
    },
    settings={
        "algo.name": Setting("qmix", f"{QMIX_YAML}: mixer qmix"),
        **_replayed(QMIX_YAML),
        "topology.environments_per_actor": Setting(
            1,
            f"{DEFAULT}: batch_size_run 1",
            "as in vdn.yaml and in oxwhirl/wqmix, qmix_w.yaml; the copy of qmix.yaml that was read runs 32",
        ),
        "algo.mixing_width": Setting(32, f"{QMIX_YAML}: mixing_embed_dim 32"),
        "algo.hypernetwork_width": Setting(64, f"{QMIX_YAML}: hypernet_layers 2, hypernet_embed 64"),
        "algo.hypernetwork_activation": Setting("relu", f"{MIXER}: nn.ReLU in hyper_w_1 and hyper_w_final"),
    },
    gaps=REPLAYED_GAPS,
)

VDN = Preset(
    name="vdn",
    summary="as QMIX, with the sum of the agents' values",
    paper="arXiv 1706.05296, 1902.04043",
    repository=REPOSITORY,
    files={**COMMITS, VDN_YAML: "c971afdceb34635d31b778021b0ef90d7af51e86"},
    settings={"algo.name": Setting("vdn", f"{VDN_YAML}: mixer vdn"), **_replayed(VDN_YAML)},
    gaps=REPLAYED_GAPS,
)

COMA = Preset(
    name="coma",
    summary="recurrent agents, a critic of the state and all actions, 8 unrolls for each gradient",
    paper="arXiv 1705.08926, 1902.04043",
    repository=REPOSITORY,
    files={
        DEFAULT: COMMITS[DEFAULT],
        CONTROLLER: COMMITS[CONTROLLER],
        RUN: COMMITS[RUN],
        COMA_YAML: "023de7ed5bc2840257e9a0dac8d33e0f3919fd4a",
        COMA_LEARNER: "eaf6b063822e2bdf1992d72dc159a500f235dbc4",
        COMA_CRITIC: "b3f4b68ac77f3b1966722b67f836bd7d9a94e422",
    },
    settings={
        "algo.name": Setting("coma", f"{COMA_YAML}: learner coma_learner"),
        **AGENTS,
        "algo.critic": Setting("state", f"{COMA_CRITIC}: the state and the agent's observation"),
        "algo.critic_network.hidden": Setting([128, 128], f"{COMA_CRITIC}: fc1, fc2 of 128 units"),
        "algo.critic_network.activation": Setting("relu", f"{COMA_CRITIC}: F.relu"),
        "algo.unroll": Setting(
            60,
            f"{RUN}: whole episodes",
            "step limit of SMAC's 3m, because actor-critics learn from unrolls here",
        ),
        "algo.trace_lambda": Setting(0.8, f"{COMA_YAML}: td_lambda 0.8"),
        "algo.target_every": Setting(
            200,
            f"{COMA_YAML}: target_update_interval 200",
            "counted in steps of the critic there and in versions here",
        ),
        "algo.value_cost": Setting(1.0, f"{COMA_LEARNER}: the mean of the squared errors"),
        "algo.entropy_cost": Setting(0.0, f"{COMA_LEARNER}: coma_loss has no entropy"),
        "algo.normalise_advantages": Setting(False, f"{COMA_LEARNER}: advantages are not normalised"),
        "algo.normalise_values": Setting(False, f"{COMA_LEARNER}: targets are not normalised"),
        "optimizer.critic_step_size": Setting(5e-4, f"{COMA_YAML}: critic_lr 0.0005"),
        "optimizer.critic_max_gradient_norm": Setting(
            10.0, f"{COMA_LEARNER}: the critic is clipped separately to grad_norm_clip"
        ),
        "rounds.batch": Setting(8, f"{COMA_YAML}: batch_size 8", "unrolls of a gradient"),
        "rounds.backpressure": Setting(True, f"{RUN}: sampling and learning alternate"),
        "topology.environments_per_actor": Setting(8, f"{COMA_YAML}: batch_size_run 8"),
    },
    gaps=(
        Gap(
            (
                "actions are uniformly random with probability 0.5, falling to 0.01 over 100,000 steps "
                "(epsilon_start, epsilon_finish)"
            ),
            "actions are sampled from the policy, without other exploration",
            f"{CONTROLLER}: epsilon floor",
        ),
        LAST_ACTION,
        Gap(
            "the critic also sees the last actions of all agents",
            "it does not see them",
            f"{COMA_CRITIC}: last actions",
        ),
        Gap(
            "one step of the critic for every time step of a batch, in reverse order",
            "one step of the critic for each gradient",
            f"{COMA_LEARNER}: _train_critic",
        ),
        Gap(
            "a batch is 8 whole episodes",
            "8 unrolls of algo.unroll steps, with the target critic's value at their ends",
            f"{RUN}: buffer.sample",
        ),
        Gap(
            "forbidden actions are masked after the softmax (mask_before_softmax False)",
            "they are masked before the softmax",
            f"{COMA_YAML}: mask_before_softmax False",
        ),
        Gap(
            "the actor's loss is the mean over agents, and its gradient is clipped to 10",
            "the sum over a policy's agents, so the same clip is tighter by the number of agents",
            f"{COMA_LEARNER}: coma_loss",
        ),
    ),
)
