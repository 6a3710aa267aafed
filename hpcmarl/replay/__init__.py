"""Replays of episodes: what happened at each step, drawn as a page or a video.

A Recording comes from stored trajectories (stored.py) or from an episode that is being played (recorder.py).
redrawing.py plays its actions again to draw it. page.py and video.py write it.
"""
