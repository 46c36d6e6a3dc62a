"""A user's own room: from a video, images or a capture to depth, meshes and a page (`python -m d3d room`).

For example::

    cfg = d3d.room.make_config("my_room/")   # finds the poses of a video
    folder = d3d.room.run_room(cfg)          # runs/room-my_room/room
"""

from d3d.room.notebook import resolve
from d3d.room.results import printed, write_results
from d3d.room.settings import make_config
from d3d.room.steps import run_room

__all__ = ["make_config", "printed", "resolve", "run_room", "write_results"]
