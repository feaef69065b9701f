"""Commands declared by annotations: of the parameters of a function, or of the fields of a frozen dataclass.

`command` makes a Click command of a function: of the annotations of its parameters or, if its only parameter is a
dataclass, of the dataclass's fields. `command_arguments` is the inverse, for jobs, scripts and notebooks.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import click

SETTING = "optim.epochs=10"


class Declared(NamedTuple):
    """An option or argument of Click, without its name and default."""

    flags: tuple[str, ...]
    """Such as `--set`; empty for an argument."""
    settings: Mapping[str, Any]
    """Of `click.Option` or `click.Argument`."""


class Parameter(NamedTuple):
    """A parameter of a command."""

    name: str
    declared: Declared
    default: Any
    """`inspect.Parameter.empty` for one that must be given."""


def option(*flags: str, **settings: Any) -> Declared:
    """An option: a flag if its default is False, repeatable if it is a tuple, required if there is none."""
    return Declared(flags, settings)


class _Given(click.Parameter):
    """Takes no empty value: a shell writes one for a variable that is not set, and it would be the current folder."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """As click does; raises BadParameter for an empty value."""
        if value == "" or (isinstance(value, (tuple, list)) and "" in value):
            raise click.BadParameter("is empty; give a value, or leave it out", ctx, self)
        try:
            return super().type_cast_value(ctx, value)
        except click.BadParameter as error:
            said = re.sub("valid integer( range)?", "whole number", error.message)
            raise click.BadParameter(re.sub("valid float( range)?", "number", said), ctx, self) from None


class Option(_Given, click.Option):
    """An option."""


class Argument(_Given, click.Argument):
    """A positional argument."""


class Command(click.Command):
    """A command that names all options that are missing, and not only the first."""

    def get_short_help_str(self, limit: int = 1000) -> str:
        """The first sentence of its help, whole wherever it is listed."""
        return super().get_short_help_str(1000)

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """What click leaves of the arguments; settings among them are taken as `--set` takes them."""
        before = list(arguments)
        context.allow_extra_args = self._takes_settings
        try:
            left = super().parse_args(context, arguments)
        except click.NoSuchOption as error:
            raise click.NoSuchOption(error.option_name, self._meant(context, error), ctx=context) from None
        except click.MissingParameter:
            given, _, _ = self.make_parser(context).parse_args(before)
            options = [each for each in self.params if isinstance(each, click.Option) and each.required]
            missing = [repr(each.opts[-1]) for each in options if each.name not in given]
            if len(missing) < 2:
                raise
            raise click.MissingParameter(ctx=context, param_hint=", ".join(missing), param_type="options") from None
        if wrong := next((word for word in left if "=" not in word), None):
            raise click.UsageError(f"{wrong}: is no setting, which is written PATH=VALUE, such as {SETTING}", context)
        if left:
            context.params["overrides"] += tuple(left)
            context.args = []
        return context.args

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What follows the command's name, settings among it."""
        pieces, settings = super().collect_usage_pieces(ctx), "[PATH=VALUE]..."
        return [*pieces, settings] if self._takes_settings and settings not in pieces else pieces

    @property
    def _takes_settings(self) -> bool:
        return any(each.name == "overrides" for each in self.params)

    def _meant(self, context: click.Context, error: click.NoSuchOption) -> str:
        """The message with what is meant: our name of an option or setting of another tool, a command, an argument."""
        from orchestrator.space.problems import name_hint, our_name
        from orchestrator.space.schema import setting_kinds

        word, said = error.option_name.lstrip("-").replace("-", "_"), error.message
        options = {flag.lstrip("-").replace("-", "_"): flag for each in self.params for flag in each.opts}
        group = None if context.parent is None else context.parent.command
        if ours := word if options.get(word, "").startswith("-") else our_name(word, options):
            return f"{said} Did you mean {options[ours]!r}?"
        if word in options:
            return f"{said} {word.upper()} is given without an option."
        if word in ("m", "multirun"):  # Hydra's
            return f"{said} Every launch is a search; its space says what is searched."
        if isinstance(group, click.Group) and word in group.commands:
            return f"{said} {word!r} is a command."
        settings = [*setting_kinds(), "stopping.rule", "algorithm.name"]
        if self._takes_settings and (our_name(word, settings) or not error.possibilities):
            hint = name_hint(word, settings) if len(word) > 1 and word not in settings else ""
            return f"{said} A setting is written --set PATH=VALUE{hint or f', such as --set {SETTING}.'}"
        return error.format_message()


def argument(**settings: Any) -> Declared:
    """A positional argument: required if it has no default."""
    return Declared((), settings)


def command(
    *, example: str, group: click.Group | None = None, name: str | None = None
) -> Callable[[Callable[..., int]], click.Command]:
    """Makes a Click command of a function, in a group if one is given.

    Args:
        example: a command line, for the end of its help.
        group: what it belongs to.
        name: of the command; the function's unless given.
    """

    def made(function: Callable[..., int]) -> click.Command:
        kind = _only_dataclass(function)

        @functools.wraps(function)
        def call(**given: Any) -> int:
            return function(**given) if kind is None else function(kind(**given))

        params = [_click_parameter(each) for each in parameters(kind or function)]
        make = click.command if group is None else group.command
        return make(name or function.__name__, cls=Command, params=params, epilog=f"Example: {example}")(call)

    return made


def parameters(owner: type | Callable[..., int]) -> Iterator[Parameter]:
    """The parameters of a function, or the fields of a dataclass, those of its base classes last."""
    hints = get_type_hints(owner, include_extras=True)
    if isinstance(owner, type):
        defaults = {field.name: field.default for field in dataclasses.fields(owner)}
        names = dict.fromkeys(name for each in owner.__mro__ for name in vars(each).get("__annotations__", ()))
    else:
        defaults = {name: each.default for name, each in inspect.signature(owner).parameters.items()}
        names = dict.fromkeys(defaults)
    for name in names:
        flags, settings = next(each for each in hints[name].__metadata__ if isinstance(each, Declared))
        declared = Declared(flags, {**_implied(hints[name].__origin__), **settings})
        default = inspect.Parameter.empty if defaults[name] is dataclasses.MISSING else defaults[name]
        yield Parameter(name, declared, default)


def _implied(kind: Any) -> dict[str, Any]:
    """Click's type of values, as far as an annotation implies one that defaults do not."""
    kinds = (kind, *get_args(kind))
    if Path in kinds:
        return {"type": click.Path(path_type=Path)}
    choices = [value for each in kinds if get_origin(each) is Literal for value in get_args(each)]
    return {"type": click.Choice(choices)} if choices else {}


def command_arguments(given: Any, *, without: Collection[str] = ()) -> list[str]:
    """The fields of a dataclass that differ from their defaults, as arguments of its command; repeated ones last."""
    words: list[str] = []
    repeated: list[str] = []
    for name, declared, default in parameters(type(given)):
        value = getattr(given, name)
        if name in without or value == default:
            continue
        if not declared.flags:
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
        elif value is True:
            words.append(declared.flags[-1])
        elif isinstance(value, tuple):
            repeated += [word for each in value for word in (declared.flags[-1], str(each))]
        else:
            words += [declared.flags[-1], f"{value:.10g}" if isinstance(value, float) else str(value)]
    return words + repeated


def _only_dataclass(function: Callable[..., int]) -> type | None:
    kinds = [kind for name, kind in get_type_hints(function).items() if name != "return"]
    is_only = len(kinds) == 1 and isinstance(kinds[0], type) and dataclasses.is_dataclass(kinds[0])
    return kinds[0] if is_only else None


def _click_parameter(parameter: Parameter) -> click.Parameter:
    name, (flags, settings), default = parameter
    is_required = default is inspect.Parameter.empty
    if not flags:
        return Argument([name], **{"required": is_required, **settings})
    more: dict[str, Any] = {"required": is_required, "multiple": isinstance(default, tuple)}
    if default is False:
        more["is_flag"] = True
    elif not is_required and default is not None and default != ():
        more |= {"default": default, "show_default": True}
    return Option([name, *flags], **{**more, **settings})
