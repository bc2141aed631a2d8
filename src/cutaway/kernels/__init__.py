"""Sparse encode, decode and their gradients: one interface, of which the torch reference is the backend here."""

from .reference import decode, encode_positive, encode_topk

__all__ = ["decode", "encode_positive", "encode_topk"]
