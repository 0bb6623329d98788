"""Forebay: one folder over many stores, cached on local disk for training."""

__version__ = "0.1.0"
