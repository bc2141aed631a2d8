"""What was found, on disk and queryable: a store of what fires where, and everything that is known of each feature.

    store = cw.store(run, tokens="2M")      # one pass over data; interrupted, the same call goes on where it stopped
    store.page(12)                          # all that a page about a feature shows, as JSON
    store.contexts(12, "near-miss")         # stretches of text: top, quantiles, random, near-miss
    store.by_text("raise ValueError")       # features that fire where this stands; also by_token, by_direction, document
    store.notes.set_label(12, "the name of a class that is being defined", author="me")
    print(store[12].name)                   # what `cutaway explain` found, with its scores and their floors
    cw.FeatureStore("runs/learn/store/blocks.2")    # later, without a network

A store is of any dictionary whose latents have one activation a token: also of transcoders and crosscoders, and of each layer
of a cross-layer transcoder. `layout` says what the folder holds.
"""

from .feature_store import FeatureStore
from .features import Passage, Postings, StoredFeature
from .making import opened, store, stores
from .names import Names
from .notes import Notes

__all__ = ["FeatureStore", "Names", "Notes", "Passage", "Postings", "StoredFeature", "opened", "store", "stores"]
