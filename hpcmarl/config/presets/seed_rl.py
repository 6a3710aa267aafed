"""MA-Trace as in awarelab/seed_rl, its authors' code.

The values are the defaults of the program that their README runs: MA-Trace (obs).
"""

from hpcmarl.config.presets.preset import Gap, Preset, Setting

README = "README.md"
PROGRAM = "starcraft/vtrace_better_main.py"
LEARNER = "agents/vtrace/learner.py"
VTRACE = "common/vtrace.py"
NETWORKS = "starcraft/networks.py"
WRAPPERS = "common/env_wrappers.py"
FLAGS = "common/common_flags.py"

MA_TRACE = Preset(
    name="ma_trace",
    summary="MA-Trace (obs): a critic of all observations, 32 unrolls of 100 steps for each gradient",
    paper="arXiv 2111.11229",
    repository="awarelab/seed_rl",
    files=dict.fromkeys(
        (README, PROGRAM, LEARNER, VTRACE, NETWORKS, WRAPPERS, FLAGS),
        "ad7b7143c144c56027ead9b147230d3eb76cc56f",
    ),
    settings={
        "algo.name": Setting("ma_trace", f"{README}: run_local.sh starcraft vtrace"),
        "algo.critic": Setting("joint_observation", f"{NETWORKS}: full_state_critic False"),
        "algo.ratios": Setting("joint", f"{LEARNER}: log_prob of the joint action"),
        "algo.rho_max": Setting(1.0, f"{VTRACE}: clip_rho_threshold 1, clip_pg_rho_threshold 1"),
        "algo.c_max": Setting(1.0, f"{VTRACE}: cs, at most 1"),
        "algo.importance_sampling": Setting(True, f"{VTRACE}: is_weights_scale 1"),
        "algo.reuse": Setting(1, f"{LEARNER}: unroll_queue dequeues each unroll once"),
        "algo.unroll": Setting(100, f"{LEARNER}: unroll_length 100"),
        "algo.discount": Setting(0.99, f"{LEARNER}: discounting 0.99"),
        "algo.trace_lambda": Setting(1.0, f"{LEARNER}: lambda_ 1"),
        "algo.value_cost": Setting(
            0.25, f"{LEARNER}: baseline_cost 0.5", "their squared error has the factor 1/2"
        ),
        "algo.entropy_cost": Setting(1.0, f"{LEARNER}: entropy_cost 1", "initial value; it is learned"),
        "algo.target_entropy": Setting(
            1e-6,
            f"{LEARNER}: target_entropy 0.00001",
            "in nats of the joint policy there; a share of the maximum here, which is taken as 10 nats",
        ),
        "algo.normalise_advantages": Setting(False, f"{LEARNER}: pg_advantages are not normalised"),
        "algo.normalise_values": Setting(False, f"{LEARNER}: v_error is not normalised"),
        "algo.normalise_observations": Setting(False, f"{WRAPPERS}: SCWrapper, normalization None"),
        "algo.agent_id": Setting(False, f"{WRAPPERS}: SCWrapper, np.eye is commented out"),
        "algo.network.hidden": Setting([64, 64], f"{NETWORKS}: SimpleNetwork, layer0 and layer1"),
        "algo.network.activation": Setting("relu", f"{NETWORKS}: ReLU"),
        "algo.network.body": Setting("mlp", f"{NETWORKS}: initial_state is empty"),
        "optimizer.name": Setting("adam", f"{PROGRAM}: tf.keras.optimizers.Adam"),
        "optimizer.step_size": Setting(1e-3, f"{PROGRAM}: learning_rate 0.001"),
        "optimizer.beta1": Setting(0.9, f"{PROGRAM}: Keras' default"),
        "optimizer.beta2": Setting(0.999, f"{PROGRAM}: Keras' default"),
        "optimizer.epsilon": Setting(1e-7, f"{PROGRAM}: Keras' default"),
        "optimizer.warmup_updates": Setting(100, f"{PROGRAM}: learning_rate_warmup 100"),
        "optimizer.decay_updates": Setting(0, f"{PROGRAM}: learning_rate_decay_scale -1"),
        "optimizer.max_gradient_norm": Setting(None, f"{LEARNER}: clipping is commented out"),
        "rounds.batch": Setting(32, f"{LEARNER}: batch_size 32", "unrolls of a gradient"),
        "rounds.backpressure": Setting(True, f"{LEARNER}: unroll_queue holds one unroll, actors wait"),
        "topology.environments_per_actor": Setting(
            16,
            f"{FLAGS}: env_batch_size 1",
            "README.md recommends 20 actors with one environment each; 16 divides the batch",
        ),
    },
    gaps=(
        Gap(
            "the entropy cost is learned ten times as fast (entropy_cost_adjustment_speed 10)",
            "it is learned with the step size of the weights, so a factor of e takes at least 1000 updates",
            f"{LEARNER}: entropy_cost_param",
        ),
        Gap(
            "initial weights by Keras (Glorot, LeCun), logits of at least -50",
            "orthogonal initial weights, logits without a lower bound",
            f"{NETWORKS}: _head",
        ),
        Gap(
            "a truncated episode ends with value 0",
            "its return is bootstrapped from the value of its last observation",
            f"{LEARNER}: discounts",
        ),
    ),
)
