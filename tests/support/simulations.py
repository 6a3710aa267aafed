"""Configurations of simulations for tests."""

# sampled policy gradients of CartPole: three workers, episodes of varying length
CARTPOLE = """
objective:
  name: policy
  env: {id: "gymnasium:CartPole-v1", step_seconds: null}
  algo: {name: reinforce, network: {hidden: [8]}}
  slots: 4
optimizer: {name: nigt, step_size: 0.05}
rounds: {rule: rennala, batch: 6}
sim: {workers: 3, compute_times: sqrt, communication_times: 0.5, stop: {rounds: 3}}
"""
