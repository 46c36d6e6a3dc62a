"""Put trained networks into `data/networks`: small files, what was measured about them, a card each.

`d3d.models.shipped` reads what is written here.
"""

from d3d.shipping.cards import write_cards
from d3d.shipping.make import default_name, identity_digest, ship

__all__ = ["default_name", "identity_digest", "ship", "write_cards"]
