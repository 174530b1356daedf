"""Classes that a library names when it is imported, but which are rarely used, and then only to make objects."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def import_later(module: str, name: str) -> None:
    """Put a module that has not been imported off until an object of one of its classes is made.

    Until then, ``from module import name`` gives a class that makes objects of the real one.
    """
    if module in sys.modules:
        return
    put_off = ModuleType(module)

    class Later:
        def __new__(cls, *args: Any, **options: Any) -> Any:
            if sys.modules.get(module) is put_off:
                del sys.modules[module]
            return getattr(import_module(module), name)(*args, **options)

    setattr(put_off, name, Later)
    sys.modules[module] = put_off
