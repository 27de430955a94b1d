"""Run a script of somebody else as Python does, with boosted names registered before it starts.

The script's process is as `python SCRIPT ARGS` would make it: `sys.argv`, `sys.path[0]`, the module
`__main__`, its exit code and its tracebacks. One thing differs: `__main__.__spec__` names
`script_process`. A process that `multiprocessing` spawns, or that a launcher such as Lightning's
starts with `python -m`, runs that module. It registers the names and then does what Python would.
"""

from __future__ import annotations

import importlib.util
import io
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType, TracebackType
from typing import Any

from accuracy_booster.progress import note

CHILD = f"{__package__}.script_process"
PATH = "ACCURACY_BOOSTER_SCRIPT"  # in the environment: the script that `script_process` runs
RUNNERS = (__file__, runpy.__file__, "<frozen runpy>")


def register_names() -> list[str]:
    """Register boosted names with timm and torchvision, whichever are installed.

    Returns:
        The registered names.
    """
    names: list[str] = []
    if importlib.util.find_spec("torchvision"):
        from accuracy_booster.integrations import torchvision

        names += torchvision.register()
    if importlib.util.find_spec("timm"):
        from accuracy_booster.integrations import timm

        if (reason := timm.why_too_old()) is None:
            names += timm.register()
        else:
            note(reason)
    return names


def run_script(path: str, args: Sequence[str]) -> None:
    """Run a script as `__main__`; what it raises is raised, and shown as Python shows it.

    Args:
        path: a file of Python, or a folder or zip file with a `__main__.py`.
        args: what follows the script in `sys.argv`.
    """
    _begin([path, *args])
    if not os.path.isfile(path) or path.endswith((".zip", ".pyz", ".pyc")):
        runpy.run_path(path, run_name="__main__")
        return
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    os.environ[PATH] = whole = os.path.abspath(path)
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec(CHILD, None)
    main.__package__ = None
    main.__loader__ = SourceFileLoader("__main__", whole)
    main.__dict__["__cached__"] = None
    sys.modules["__main__"] = main
    _execute(whole, main.__dict__)


def run_module(name: str, args: Sequence[str]) -> None:
    """Run a module as `python -m NAME ARGS` does."""
    _begin([name, *args])
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd())
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def continue_in_child(namespace: dict[str, Any]) -> None:
    """What `script_process` does: run the script in a process that another process of it started.

    Args:
        namespace: of `script_process`. Its `__name__` is `__mp_main__` in a spawned process, where
            the script is imported, and `__main__` where a launcher runs it again.
    """
    path = os.environ[PATH]
    if namespace["__name__"] == "__main__":
        run_script(path, sys.argv[1:])
        return
    register_names()
    sys.argv[0] = path
    _execute(path, namespace)


def _begin(argv: list[str]) -> None:
    """Register the names, and make what all scripts find."""
    register_names()
    own = os.path.dirname(os.path.realpath(sys.argv[0]))
    package = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    if sys.path and os.path.realpath(sys.path[0] or ".") == own != os.path.realpath(package):
        del sys.path[0]  # the folder of the command accuracy-booster
    sys.argv[:] = argv
    sys.excepthook = _show_without_us


def _execute(path: str, namespace: dict[str, Any]) -> None:
    namespace["__file__"] = path
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, namespace)


def _show_without_us(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Show an error as if Python had run the script itself, without the frames of this file."""
    while trace is not None and trace.tb_frame.f_code.co_filename != __file__:
        trace = trace.tb_next  # how this package came here
    while trace is not None and trace.tb_frame.f_code.co_filename in RUNNERS:
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.__excepthook__(kind, error, trace)
