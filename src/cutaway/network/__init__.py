"""A network seen from inside: open, sites, edits, generation."""

from .edit import At, Edit, same, zero
from .network import Enough, Network
from .opening import open
from .side_by_side import side_by_side
from .site import Site, View

__all__ = ["At", "Edit", "Enough", "Network", "Site", "View", "open", "same", "side_by_side", "zero"]
