"""GlossyRooms: the rendered rooms that ship, read from their archives."""
