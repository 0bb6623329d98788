"""Arguments and options that many commands share, and the form of the examples in the help."""

from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from forebay.cli.output import try_each

PathArgument = Annotated[str, typer.Argument(help="A path of the tree; it starts with /.", metavar="PATH")]
PathsArgument = Annotated[list[str], typer.Argument(help="Paths of the tree.", metavar="PATH")]
Human = Annotated[bool, typer.Option("--human", "-h", help="Sizes such as 1.5 GiB instead of bytes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


class Misuse(typer.BadParameter):
    """The command line is wrong, in words of our own: exit code 2."""

    def format_message(self) -> str:
        """The words alone; Typer would put "Invalid value" before them."""
        return self.message


def example(*lines: str) -> str:
    """The end of a command's help: lines to copy."""
    return "\n\n".join(("[dim]Example:[/dim]" if len(lines) == 1 else "[dim]Examples:[/dim]", *lines))


def each(paths: Iterable[str], act: Callable[[str], object]) -> None:
    """Do it for each path, going on after a failure; exit with 1 at the end if any failed."""
    if not try_each(paths, act):
        raise typer.Exit(1)
