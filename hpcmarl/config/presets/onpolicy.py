"""MAPPO and IPPO as in marlbenchmark/on-policy: its config.py with the changes of its SMAC scripts."""

from dataclasses import replace

from hpcmarl.config.presets.preset import Gap, Preset, Setting

CONFIG = "onpolicy/config.py"
SCRIPT = "onpolicy/scripts/train_smac_scripts/train_smac_3m.sh"
PROGRAM = "onpolicy/scripts/train/train_smac.py"
TRAINER = "onpolicy/algorithms/r_mappo/r_mappo.py"
OPTIMIZERS = "onpolicy/algorithms/r_mappo/algorithm/rMAPPOPolicy.py"
NETWORKS = "onpolicy/algorithms/r_mappo/algorithm/r_actor_critic.py"
LAYERS = "onpolicy/algorithms/utils/mlp.py"
VALUE_NORM = "onpolicy/utils/valuenorm.py"
LOSSES = "onpolicy/utils/util.py"
BUFFER = "onpolicy/utils/shared_buffer.py"
STARCRAFT = "onpolicy/envs/starcraft2/StarCraft2_Env.py"

MAPPO = Preset(
    name="mappo",
    summary="recurrent actors, a critic of the state, 15 passes over 8 unrolls of 400 steps",
    paper="arXiv 2103.01955",
    repository="marlbenchmark/on-policy",
    files={
        CONFIG: "d02d5999ac78c0f0707da7b6b3d603314523014d",
        SCRIPT: "7a22fabdfa89bd4aa7e020199ece35edafd50248",
        PROGRAM: "1d9c8f9787b32cac62ca8964109586e03cbe8309",
        TRAINER: "de66d7a4b23fac2513f56f96f73b3f5cb96695ac",
        OPTIMIZERS: "4457e4d2a619265ecf7502f3e0d97a298eca99bc",
        NETWORKS: "d02d5999ac78c0f0707da7b6b3d603314523014d",
        LAYERS: "56279660c08fafecb3f9b89adce879ea65d4619e",
        VALUE_NORM: "b5c1e75c2382844da8075b05d227ea366b0db28c",
        LOSSES: "88cbade120abd57a8cb4f46583f8840599a2f6b3",
        BUFFER: "41563a64de3845ec73131a1e34743d5294ac38e1",
        STARCRAFT: "45a13c6de9cd5a6332ebf9a709cc80e880dc5052",
    },
    settings={
        "algo.name": Setting("ppo", f"{SCRIPT}: algo rmappo"),
        "algo.critic": Setting("state", f"{CONFIG}: use_centralized_V True, use_obs_instead_of_state False"),
        "algo.unroll": Setting(400, f"{SCRIPT}: episode_length 400"),
        "algo.epochs": Setting(
            15, f"{CONFIG}: ppo_epoch 15", "their scripts use 15 for 3m, and 5 for 3s5z and MMM2"
        ),
        "algo.minibatches": Setting(1, f"{CONFIG}: num_mini_batch 1"),
        "algo.clip": Setting(0.2, f"{CONFIG}: clip_param 0.2"),
        "algo.discount": Setting(0.99, f"{CONFIG}: gamma 0.99"),
        "algo.trace_lambda": Setting(0.95, f"{CONFIG}: gae_lambda 0.95"),
        "algo.entropy_cost": Setting(0.01, f"{CONFIG}: entropy_coef 0.01"),
        "algo.critic_input": Setting("agent", f"{PROGRAM}: use_state_agent True"),
        "algo.critic_network.hidden": Setting([64, 64], f"{NETWORKS}: R_Critic has the actor's base"),
        "algo.critic_network.activation": Setting("relu", f"{CONFIG}: use_ReLU True"),
        "algo.critic_network.body": Setting(
            "gru", f"{NETWORKS}: R_Critic has an RNNLayer", "its memory is carried from unroll to unroll"
        ),
        "algo.critic_network.memory": Setting(64, f"{NETWORKS}: RNNLayer of hidden_size"),
        "algo.value_cost": Setting(
            0.5, f"{CONFIG}: value_loss_coef 1", "their squared error has the factor 1/2"
        ),
        "algo.value_loss": Setting(
            "huber",
            f"{LOSSES}: huber_loss",
            "their loss has no gradient where a value is more than delta too high",
        ),
        "algo.huber_delta": Setting(10.0, f"{CONFIG}: huber_delta 10"),
        "algo.value_clip": Setting(0.2, f"{TRAINER}: cal_value_loss, clip_param 0.2"),
        "algo.advantages": Setting("once", f"{TRAINER}: train"),
        "algo.kl_target": Setting(None, f"{TRAINER}: ppo_update, no early end"),
        "algo.normalise_advantages": Setting(
            True, f"{TRAINER}: train divides by mean and deviation of a batch"
        ),
        "algo.normalise_values": Setting(True, f"{CONFIG}: use_valuenorm True"),
        "algo.normalise_observations": Setting(
            True,
            f"{CONFIG}: use_feature_normalization True",
            "LayerNorm of each input there, running mean and deviation of each feature here",
        ),
        "algo.normalisation_rate": Setting(
            1e-5, f"{VALUE_NORM}: beta 0.99999", "1 - beta, for each gradient"
        ),
        "algo.agent_id": Setting(True, f"{STARCRAFT}: obs_agent_id True"),
        "algo.network.hidden": Setting(
            [64, 64], f"{CONFIG}: hidden_size 64, layer_N 1", "layer_N counts the layers after the first one"
        ),
        "algo.network.activation": Setting("relu", f"{CONFIG}: use_ReLU True"),
        "algo.network.body": Setting("gru", f"{PROGRAM}: rmappo sets use_recurrent_policy"),
        "algo.network.memory": Setting(64, f"{NETWORKS}: RNNLayer of hidden_size"),
        "optimizer.name": Setting(
            "adam", f"{OPTIMIZERS}: torch.optim.Adam, one for the actor and one for the critic"
        ),
        "optimizer.step_size": Setting(5e-4, f"{CONFIG}: lr 5e-4"),
        "optimizer.critic_step_size": Setting(5e-4, f"{CONFIG}: critic_lr 5e-4"),
        "optimizer.beta1": Setting(0.9, f"{OPTIMIZERS}: torch's default"),
        "optimizer.beta2": Setting(0.999, f"{OPTIMIZERS}: torch's default"),
        "optimizer.epsilon": Setting(1e-5, f"{CONFIG}: opti_eps 1e-5"),
        "optimizer.warmup_updates": Setting(0, f"{CONFIG}: no warm-up"),
        "optimizer.decay_updates": Setting(0, f"{CONFIG}: use_linear_lr_decay False"),
        "optimizer.max_gradient_norm": Setting(10.0, f"{CONFIG}: max_grad_norm 10"),
        "optimizer.critic_max_gradient_norm": Setting(
            10.0, f"{TRAINER}: the critic is clipped separately to max_grad_norm"
        ),
        "rounds.batch": Setting(
            8, f"{SCRIPT}: n_rollout_threads 8, num_mini_batch 1", "unrolls of a gradient"
        ),
        "rounds.backpressure": Setting(True, f"{BUFFER}: every step of the buffer is used for learning"),
        "topology.environments_per_actor": Setting(8, f"{SCRIPT}: n_rollout_threads 8"),
    },
    gaps=(
        Gap(
            "backpropagation through chunks of 10 steps (data_chunk_length), from the memory of sampling",
            "through the whole unroll",
            f"{CONFIG}: data_chunk_length 10",
        ),
        Gap("LayerNorm after each hidden layer", "none", f"{LAYERS}: fc1, fc_h"),
        Gap(
            "a truncated episode ends with value 0 (use_proper_time_limits False)",
            "its return is bootstrapped from the value of its last observation",
            f"{CONFIG}: use_proper_time_limits",
        ),
        Gap(
            "the actor's loss is the mean over agents, and its gradient is clipped to 10",
            "the sum over a policy's agents, so the same clip is tighter by the number of agents",
            f"{TRAINER}: ppo_update",
        ),
    ),
)

IPPO = replace(
    MAPPO,
    name="ippo",
    summary="as MAPPO, with a critic of each agent's own observation",
    settings={
        **MAPPO.settings,
        "algo.critic": Setting("independent", f"{PROGRAM}: ippo sets use_centralized_V False"),
        "algo.critic_input": Setting(
            "team",
            f"{PROGRAM}: use_centralized_V False",
            "an independent critic always sees the agent's own observation",
        ),
    },
)
