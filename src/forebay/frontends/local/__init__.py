"""Python programs of this machine as a frontend: a socket that hands out cached files as descriptors."""
