"""A reader process: takes paths from stdin up to an empty line, says `ready`, waits for a line, reads every file."""

import sys

from common import read_files

paths = []
while line := sys.stdin.readline().rstrip("\n"):
    paths.append(line)
sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.readline()
read_files(paths)
