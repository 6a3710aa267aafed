"""Commands that take overrides: an unknown option that is a key of the configuration names the key."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class WithOverrides(TyperCommand):
    """A command with arguments key.sub=value; `--seed 3` is answered with the line `seed=3`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # click's NoSuchOption, which versions of typer keep in different places
            if type(error).__name__ == "NoSuchOption":
                hint = key_for_option(str(getattr(error, "option_name", "")), given)
                if hint:
                    shown: Any = error
                    shown.message, shown.possibilities = f"{shown.message}; {hint}", []
            raise


def key_for_option(option: str, arguments: list[str]) -> str:
    """Return how to set the key that an unknown option stands for; empty if it stands for none.

    Args:
        option: The option, with its dashes.
        arguments: All arguments of the command.
    """
    from hpcmarl.config.foreign import present_key, present_option
    from hpcmarl.config.keys import schema_rows

    name = option.lstrip("-").partition("=")[0]
    if (other := present_option(name)) is not None:
        return f"use {other}"
    key = present_key(name)
    paths = [row.key for row in schema_rows()]
    if key is None:
        plain = name.replace("-", "_")
        leaves = [path for path in paths if path in (name, plain) or path.endswith(f".{plain}")]
        key = plain if plain in leaves else (leaves[0] if leaves else None)
    if key is None:
        return "keys of the configuration have no dashes, as in stop.seconds=60 (hpcmarl config schema)"
    value = _value_of(option, arguments)
    word, _, meaning = key.partition(" ")
    return f"write {word}={value} without dashes{f' {meaning}' if meaning else ''}"


def _value_of(option: str, arguments: list[str]) -> str:
    """Return the value that follows an option; a placeholder if there is none."""
    for place, word in enumerate(arguments):
        name, sign, value = word.partition("=")
        if name == option:
            following = arguments[place + 1 : place + 2]
            if sign:
                return value
            return following[0] if following and not following[0].startswith("-") else "VALUE"
    return "VALUE"
