"""``ort_cks.rewrite`` is a function and, for ``python -m``, a module; importing it hides the function."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(module_name: str, function: Callable[..., Any]) -> None:
    """Lets a module be called as ``function`` would be."""

    class CallableModule(ModuleType):
        __call__ = staticmethod(function)

    sys.modules[module_name].__class__ = CallableModule
