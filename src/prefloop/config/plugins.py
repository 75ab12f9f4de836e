"""Functions of the user's own: by ``module:function``, or by the name of an installed entry point."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError, PrefloopError


def load_function(name: str, group: str) -> Callable[..., Any]:
    """The function that `name` names; modules are also looked for in the working folder.

    Args:
        group: of entry points (``prefloop.judges``, ``prefloop.tasks``).

    Raises:
        ConfigError: there is no such module, function or entry point, or importing it fails.
    """
    if ":" not in name:
        installed = {point.name: point for point in entry_points(group=group)}
        if name not in installed:
            known = ", ".join(sorted(installed)) or "none are installed"
            raise ConfigError(f"no entry point '{name}' in {group} ({known}): give module:function, or install it")
        loaded: Any = _imported(name, installed[name].load)
    else:
        module, _, attribute = name.partition(":")
        loaded = getattr(_imported(name, lambda: _module(module)), attribute, None)
        if loaded is None:
            raise ConfigError(f"{module} has no function '{attribute}' ({name})")
    if not callable(loaded):
        raise ConfigError(f"{name} is a {type(loaded).__name__}, not a function")
    function: Callable[..., Any] = loaded
    return function


def source_of(function: Callable[..., Any]) -> str:
    """Text of the function, as far as Python knows it: what tells two versions of it apart."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # built-in, or written in another language
        return ""


def _module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return import_module(name)


def _imported(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except PrefloopError:
        raise
    except Exception as error:  # the user's code may fail in any way
        raise ConfigError(
            f"{name} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
