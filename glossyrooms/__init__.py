"""The generator of GlossyRooms: furnished rooms with glossy surfaces, path-traced, one archive a room.

`d3d.datasets.glossyrooms.dataset` reads what this package writes; `d3d.datasets.glossyrooms.format` is the format
that both keep to. Only rendering imports mitsuba, inside the functions that need it.
"""
