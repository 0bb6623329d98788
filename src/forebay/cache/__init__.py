"""Cached bytes: whole-file cache files on local disk, present page by page."""
