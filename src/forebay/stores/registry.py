"""From a store URL and a mount's options to a store.

The only module that knows every adapter.  URL forms: `s3://bucket/prefix` (also `s3a`, `s3n`),
`file:///absolute/folder`, `mem://name/prefix`.
"""
