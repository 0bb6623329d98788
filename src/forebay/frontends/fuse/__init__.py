"""The tree as a folder of this machine: our own server of the kernel's FUSE protocol, without libfuse."""
