"""Environments that ship with hpcmarl, made for studies: `env.id: hpcmarl.envs.games.NAME:FACTORY`. One file
each; nothing is imported here."""
