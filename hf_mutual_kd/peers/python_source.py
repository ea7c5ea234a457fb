"""Peers that a function of the user's own code returns: `python:package.module:function`."""

from __future__ import annotations

import importlib
import re
from typing import Any

from torch import nn

from ..errors import PeerError

PREFIX = "python:"
SOURCE = re.compile(r"python:([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


def is_python_source(source: str) -> bool:
    """Whether a peer's source names a function instead of a Hub id or folder."""
    return source.startswith(PREFIX)


def make_module(name: str, source: str, trust_remote_code: bool) -> nn.Module:
    """Import the function and call it without arguments.

    The module is a peer as it is: it is called with what its attribute `processor` (a callable `inputs -> {name:
    tensor}`) makes, and gives the task's outputs. Its attribute `clip_policy`
    ([`ClipPolicy`], *optional*) says which frames of a video it sees.

    Args:
        name (`str`): the peer's, for messages.
        source (`str`): `python:package.module:function`; the package must be importable (installed, or on
            `PYTHONPATH`).
        trust_remote_code (`bool`): must be given, as importing and calling runs the code.

    Raises:
        [`PeerError`]: not allowed, not of this form, no such module or function, or something
            else than an `nn.Module` came back. What the code itself raises is passed on.

    Example:

    ```python
    >>> make_module("vinet", "python:my_models.vinet:pretrained", trust_remote_code=True)
    ViNet(...)
    ```
    """
    parts = SOURCE.fullmatch(source)
    if parts is None:
        raise PeerError(f"peer {name!r}: expected python:package.module:function, got {source!r}")
    if not trust_remote_code:
        raise PeerError(f"peer {name!r}: {source} runs code; read it, then allow it with --trust_remote_code true")
    module_name, function_name = parts.groups()
    try:
        module = importlib.import_module(module_name)
    except SystemExit as error:
        raise PeerError(
            f"peer {name!r}: importing {module_name} ended the program (exit code {error.code})"
        ) from error
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise PeerError(
            f"peer {name!r}: there is no module {error.name}; install it or put its folder on PYTHONPATH"
        ) from error
    function: Any = getattr(module, function_name, None)
    if not callable(function):
        raise PeerError(f"peer {name!r}: {module_name} has no function {function_name}")
    try:
        made = function()
    except SystemExit as error:
        raise PeerError(
            f"peer {name!r}: {source} ended the program (exit code {error.code}) in place of a module"
        ) from error
    if not isinstance(made, nn.Module):
        raise PeerError(f"peer {name!r}: {source} must return an nn.Module, it returned a {type(made).__name__}")
    return made
