"""Name -> builder for every kind of plug-in. A plug-in is one file and one `@register` line."""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

from .errors import UsageError, unknown

# kind -> the folder whose files register it; folders are imported when a name of the kind is first asked for
FOLDERS = {
    "codec": "codecs",
    "generator": "networks",
    "discriminator": "networks",
    "loss": "losses",
    "penalty": "losses",
    "game": "games",
    "recipe": "recipes",
    "metric": "metrics",
}

Builder = TypeVar("Builder", bound=Callable[..., Any])
_builders: dict[str, dict[str, Callable[..., Any]]] = {kind: {} for kind in FOLDERS}
_loaded: set[str] = set()


def register(kind: str, name: str) -> Callable[[Builder], Builder]:
    """Decorator that makes a class or function known as `name` among its `kind` (a key of `FOLDERS`).

    Raises UsageError if the name is taken by something else.
    """
    if kind not in FOLDERS:
        raise UsageError(unknown("kind of plug-in", kind, FOLDERS))

    def add(builder: Builder) -> Builder:
        taken = _builders[kind].get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (builder.__module__, builder.__qualname__):
            raise UsageError(f"The {kind} name {name!r} is already taken by {taken.__module__}.{taken.__qualname__}.")
        _builders[kind][name] = builder
        return builder

    return add


def _load(kind: str) -> None:
    folder = FOLDERS[kind]
    if folder in _loaded:
        return
    _loaded.add(folder)
    package = importlib.import_module(f"{__package__}.{folder}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def names(kind: str) -> list[str]:
    """Every registered name of a kind, sorted."""
    _load(kind)
    return sorted(_builders[kind])


def get(kind: str, name: str) -> Callable[..., Any]:
    """The builder registered under a name. Raises UsageError with the nearest match."""
    _load(kind)
    try:
        return _builders[kind][name]
    except KeyError:
        raise UsageError(unknown(kind, name, _builders[kind])) from None


def build(kind: str, name: str, *given: Any, args: Mapping[str, Any] | None = None) -> Any:
    """Call a builder with positional facts and keyword arguments that its signature accepts.

    The signature is the schema: a wrong key raises UsageError that names the accepted ones, a value of another type
    than its annotation one that says what was expected. A dict becomes the Ramp it describes.
    """
    builder = get(kind, name)
    args = dict(args or {})
    accepted = list(inspect.signature(builder).parameters.values())[len(given) :]
    keys = [p.name for p in accepted if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in args:
        if key not in keys:
            raise UsageError(unknown(f"argument of the {kind} {name!r}:", key, keys))
    try:
        return builder(*given, **_typed(kind, name, builder, args))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"The {kind} {name!r} cannot be made with {args or 'its defaults'}: {error}") from error


def _typed(kind: str, name: str, builder: Callable[..., Any], args: dict[str, Any]) -> dict[str, Any]:
    """Arguments, which are JSON, as the builder's annotations want them."""
    if not args:
        return args
    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(builder.__init__ if inspect.isclass(builder) else builder)
    typed = dict(args)
    for key in args.keys() & hints.keys():
        try:
            typed[key] = TypeAdapter(hints[key]).validate_json(json.dumps(args[key], default=dict), strict=True)
        except ValidationError as error:
            raise UsageError(f"{key} of the {kind} {name!r}: {mistake(error)[1]}; got {args[key]!r}.") from None
    return typed


def mistake(error: Any) -> tuple[Any, str]:
    """The first mistake that a pydantic ValidationError tells of, and its sentence.

    Of the two that a number-or-Ramp gives rise to, the one that fits what came.
    """
    found = error.errors()
    union = found[0]["loc"][-1:] == ("float",) and isinstance(found[0]["input"], dict) and len(found) > 1
    first = found[1 if union else 0]
    return first, first["msg"].removeprefix("Value error, ").lower()


def loaded() -> dict[str, dict[str, Callable[..., Any]]]:
    """What is registered by now: kind -> name -> builder, without importing anything."""
    return _builders
