"""Ways to look at the tree: each translates a protocol into calls of `forebay.vfs`, and keeps no truth of its own."""
