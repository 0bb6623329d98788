"""The command line: words in, one admin call, lines out.  It keeps no state and decides nothing about data."""
