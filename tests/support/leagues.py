"""Configurations of small leagues."""

RPS = """
env: {id: "matrix:rps"}
algo: {name: ma_trace, critic: independent, unroll: 4, network: {hidden: [4]}}
topology: {environments_per_actor: 2}
trajectories: {enabled: false}
stop: {updates: 6}
logging: {progress: false}
checkpoint: {every_seconds: null}
league:
  members: {a: {}, b: {matchmaking: {name: uniform, self_share: 0.5}}}
  freeze: {most_updates: 2}
  evaluation: {episodes: 8, environments: 4, final_seconds: 0.2, share: 0.2}
"""
TAG = """
env: {id: mpe2.simple_tag_v3, kwargs: {max_cycles: 5}}
policies: {predators: {agents: ["adversary_*"]}, prey: {agents: ["agent_*"]}}
algo: {name: ppo, unroll: 5, minibatches: 1, epochs: 1, network: {hidden: [4]}}
topology: {environments_per_actor: 2}
trajectories: {enabled: false}
stop: {updates: 4}
logging: {progress: false}
league:
  score: return
  return_range: [-50, 50]
  freeze: {most_updates: 2}
  evaluation: {episodes: 4, final_seconds: 0.2}
"""
NAMES = [f"{member}-{term:06d}" for member in "ab" for term in range(4)]
COMMON = """
trajectories: {enabled: false}
logging: {progress: false}
topology: {environments_per_actor: 8}
optimizer: {name: adam, step_size: 0.01}
"""
NAMED_RPS = f"""
name: rps
env: {{id: "matrix:rps"}}
algo: {{name: ma_trace, unroll: 4, critic: independent, network: {{hidden: [8]}}}}
stop: {{updates: 6}}
league:
  members: {{main: {{}}, other: {{matchmaking: {{name: latest}}}}}}
  freeze: {{most_updates: 2, winning: 1.0}}
  evaluation: {{episodes: 8, environments: 4, final_seconds: 0.5}}
{COMMON}"""
# each player has its own policy, so the league has two sides
PENNIES = f"""
name: pennies
env: {{id: "matrix:matching_pennies"}}
policies: {{row: {{agents: [player_0]}}, column: {{agents: [player_1]}}}}
algo: {{name: ma_trace, unroll: 4, critic: independent, network: {{hidden: [8]}}}}
stop: {{updates: 4}}
league:
  matchmaking: {{name: uniform}}
  freeze: {{most_updates: 2, winning: 1.0}}
  evaluation: {{episodes: 8, environments: 4, final_seconds: 0.5}}
{COMMON}"""
