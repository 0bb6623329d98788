"""What the URLs of stores have in common."""

from collections.abc import Mapping

from forebay.errors import Invalid


def folder_prefix(prefix: str) -> str:
    """The prefix of the keys in a folder.

    >>> folder_prefix(""), folder_prefix("a/b"), folder_prefix("a/b/")
    ('', 'a/b/', 'a/b/')
    """
    return prefix if prefix == "" or prefix.endswith("/") else prefix + "/"


def refuse_options(scheme: str, options: Mapping[str, str]) -> None:
    """Raise Invalid if a store that takes no options was given some."""
    if options:
        raise Invalid(f"{scheme}:// takes no options, and {next(iter(options))!r} was given")


def refuse_credentials(place: str, *, instead: str) -> None:
    """Raise Invalid if the place in a URL (what stands before its path) holds a user or a password."""
    if "@" in place:
        raise Invalid(f"credentials do not belong in the URL: it is shown in listings; use {instead}")
