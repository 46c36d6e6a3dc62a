"""The generator of GlossyRooms: furnished rooms with glossy surfaces, path traced, one archive per room.

`d3d.datasets.glossyrooms` reads these archives; its module `format` describes them. mitsuba and pyoidn are imported
only when a room is rendered, in `mitsuba_setup`.
"""
