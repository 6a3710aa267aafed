"""Names of other libraries for keys and values of the configuration, for error messages. None is accepted."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

# Present key, with words behind it if the meaning differs -> names of it in other libraries: RLlib,
# Stable-Baselines3, EPyMARL, CleanRL, Tianshou and the code of MAPPO's authors
_NAMES: dict[str, str] = {
    "optimizer.step_size": "lr learning_rate actor_lr lr_actor policy_lr alpha stepsize",
    "optimizer.critic_step_size": "critic_lr lr_critic value_lr vf_lr",
    "optimizer.max_gradient_norm": "max_grad_norm grad_clip grad_norm_clip grad_norm clip_grad gradient_clip",
    "optimizer.name": "optim optimiser optimizer_type",
    "optimizer.epsilon": "adam_eps opti_eps optim_eps optim_epsilon",
    "optimizer.decay_updates": "lr_decay use_linear_lr_decay anneal_lr lr_schedule",
    "algo.name": "algorithm algorithm_name algo_name alg agent learner policy_type",
    "algo.discount": "gamma discount_factor",
    "algo.trace_lambda": "gae_lambda gae_lam td_lambda lam lambda_ lambda_gae",
    "algo.entropy_cost": "entropy_coef ent_coef entropy_coeff entropy_coefficient entropy_weight alpha_init",
    "algo.value_cost": "vf_coef value_coef value_loss_coef value_loss_coeff vf_loss_coeff critic_coef",
    "algo.clip (with algo.name: ppo)": "clip_param clip_range clip_ratio clip_coef eps_clip ppo_clip",
    "algo.epochs (with algo.name: ppo)": "n_epochs num_epochs ppo_epoch ppo_epochs num_sgd_iter",
    "algo.minibatches (with algo.name: ppo)": (
        "minibatch_size num_minibatches num_mini_batch n_minibatches sgd_minibatch_size"
    ),
    "algo.kl_target (with algo.name: ppo)": "target_kl kl_coeff",
    "algo.unroll": "n_steps num_steps rollout_length rollout_fragment_length rollout_steps horizon seq_len",
    "algo.normalise_advantages": "normalize_advantage normalize_advantages norm_adv standardise_advantages",
    "algo.normalise_observations": "normalize_observations normalize_obs norm_obs",
    "algo.normalise_values": "use_valuenorm use_popart standardise_returns",
    "algo.reward_scale": "reward_scaling scale_rewards standardise_rewards",
    "algo.network.hidden": (
        "hidden_size hidden_dim hidden_sizes hidden_layers layers net_arch fcnet_hiddens rnn_hidden_dim width"
    ),
    "algo.network.activation": "activation_fn fcnet_activation",
    "algo.network.body": "use_rnn use_recurrent_policy rnn lstm gru use_lstm",
    "algo.agent_id": "obs_agent_id add_agent_id",
    "algo.double_q": "double_dqn use_double_q",
    "algo.target_every": "target_update_interval target_network_update_freq",
    "algo.target_rate": "tau polyak soft_update",
    "algo.epsilon_start": "exploration_initial_eps eps_start initial_epsilon",
    "algo.epsilon_final": "epsilon_finish epsilon_end exploration_final_eps eps_end final_epsilon",
    "algo.epsilon_steps": "epsilon_anneal_time exploration_fraction epsilon_timesteps eps_decay",
    "algo.noise_start (with algo.name: maddpg)": "exploration_noise action_noise noise_std sigma_init",
    "algo.replay.episodes": "buffer_size replay_size buffer_capacity replay_capacity memory_size",
    "algo.replay.learning_starts": "learning_start warmup_steps start_steps",
    "rounds.batch (trajectories of a round)": "batch_size train_batch_size num_trajectories",
    "stop.env_steps": (
        "total_timesteps total_steps timesteps num_env_steps n_timesteps num_timesteps max_timesteps t_max "
        "timesteps_total total_env_steps training_steps frames"
    ),
    "stop.updates": "n_updates num_updates iterations n_iterations max_iterations max_updates",
    "stop.seconds": "time_total_s max_time time_limit wall_time",
    "topology.environments_per_actor": (
        "n_envs num_envs num_env n_rollout_threads num_parallel_envs num_envs_per_worker batch_size_run "
        "num_envs_per_env_runner"
    ),
    "topology.workers_per_actor (or -n RANKS for more actors)": (
        "num_workers n_workers num_rollout_workers num_env_runners num_actors n_actors workers"
    ),
    "topology.groups (or -n RANKS)": "num_learners n_learners num_gpus",
    "topology.threads": "n_training_threads num_threads torch_threads",
    "env.id": "env_name env_id environment environment_id scenario scenario_name map_name game",
    "env.kwargs": "env_args env_kwargs env_config environment_args num_agents n_agents",
    "env.max_steps": "episode_limit max_episode_steps max_ep_len episode_length",
    "eval.episodes": "n_eval_episodes eval_episodes test_nepisode evaluation_duration num_eval_episodes",
    "eval.every_updates": "eval_interval eval_freq test_interval evaluation_interval",
    "checkpoint.every_seconds": "save_interval save_freq save_every checkpoint_freq checkpoint_interval",
    "logging.every_seconds": "log_interval log_freq log_every",
    "logging.wandb": "use_wandb wandb_project track",
    "logging.tensorboard": "use_tensorboard tensorboard_log",
    "policies (agents that share a policy)": "share_policy share_parameters parameter_sharing multiagent",
    "seed": "random_seed",
    "deterministic": "torch_deterministic cuda_deterministic",
}
# Words for an option of the command line instead of a key.
_OPTIONS = {
    "--run-dir DIR": "log_dir logdir output_dir out_dir save_dir results_dir local_dir run_dir save_path",
    "--resume RUN": "load_model load_path checkpoint_path model_dir restore resume resume_from",
    "-n RANKS": "ranks n_ranks num_ranks processes num_processes n_procs",
}
_KEY_OF = {word: key for key, words in _NAMES.items() for word in words.split()}
_OPTION_OF = {word: option for option, words in _OPTIONS.items() for word in words.split()}
# value of algo.name -> algorithm or preset here
_ALGORITHMS = {
    "a2c": "ma_trace",
    "a3c": "ma_trace",
    "impala": "ma_trace",
    "vtrace": "ma_trace",
    "ia2c": "ma_trace",
    "maa2c": "ma_trace",
    "dqn": "iql",
    "idqn": "iql",
    "ddqn": "iql",
    "q_learning": "iql",
    "ddpg": "maddpg",
    "iddpg": "maddpg",
    "td3": "maddpg",
    "matd3": "maddpg",
    "sac": "masac",
    "isac": "masac",
    "ppo2": "ppo",
    "pg": "reinforce",
    "vpg": "reinforce",
    "ow_qmix": "wqmix",
    "cw_qmix": "wqmix",
}


def present_key(name: str) -> str | None:
    """Return the key that a name of another library stands for, with words on its meaning; None: unknown.

    Args:
        name: Unknown key without its section, in any spelling of `-` and `_`.
    """
    return _KEY_OF.get(_plain(name))


def present_option(name: str) -> str | None:
    """Return the option of the command line that a name stands for; None: there is none."""
    return _OPTION_OF.get(_plain(name))


def present_value(path: Sequence[object], value: object, allowed: Collection[str]) -> str | None:
    """Return the allowed value that a value probably means; None: none is near.

    Args:
        path: Sections from the root on, then the key.
        value: Value that the key does not allow.
        allowed: Allowed values.
    """
    if not isinstance(value, str) or not value:
        return None
    plain = _plain(value)
    if tuple(path[-2:]) == ("algo", "name") and plain in _ALGORITHMS:
        return _ALGORITHMS[plain]
    near = difflib.get_close_matches(plain, sorted(allowed), n=1, cutoff=0.75)
    return near[0] if near else None


def _plain(name: str) -> str:
    return name.strip().lstrip("-").replace("-", "_").lower()
