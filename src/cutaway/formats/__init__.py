"""Other projects' checkpoints, read and written: one file a format, and its conventions as data."""

from .found import Found
from .loading import FORMATS, NAMES, check, load_dictionaries, load_dictionary, save_dictionary

__all__ = ["FORMATS", "NAMES", "Found", "check", "load_dictionaries", "load_dictionary", "save_dictionary"]
