"""Cutaway finds what matters inside a neural network, and acts on it."""
