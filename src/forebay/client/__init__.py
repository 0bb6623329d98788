"""Forebay as a library, in users' programs: it knows the daemon by its socket, and nothing of stores and caches."""
