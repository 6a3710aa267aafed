"""Environments that ship with hpcmarl, for studies: `env.id: hpcmarl.envs.games.NAME:FACTORY`.

Each environment is one file. This package imports none of them.
"""
