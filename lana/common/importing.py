"""Optional packages and the user's Python files: imported, or a message explains how to get them."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from lana.common.suggestions import near
from lana.errors import UserError

_BARRED: ContextVar[tuple[Path, ...]] = ContextVar("_BARRED", default=())  # folders whose Python files do not run
_TRUSTED: ContextVar[bool] = ContextVar("_TRUSTED", default=False)
_MODULE = "lana_user_"  # how the names of users' modules begin
_LONGEST = 500  # characters of a foreign message that are repeated


def python_file(path: str, *, what: str) -> Path:
    """A Python file of the user's, absolute.

    Raises:
        UserError: there is none.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise UserError(f"{path} should hold {what}, but there is no file {file}. Check the path.")
    return file


@contextlib.contextmanager
def barred(folder: Path | str) -> Iterator[None]:
    """While open, no Python file within the folder is imported: whoever made a run or a student may have put it there.

    A user's own code lies outside, since a run begins in an empty folder.
    """
    token = _BARRED.set((*_BARRED.get(), Path(folder).resolve()))
    try:
        yield
    finally:
        _BARRED.reset(token)


@contextlib.contextmanager
def trust_code() -> Iterator[None]:
    """While open, Python files within the folders of runs and students are imported too, as by `--trust`."""
    token = _TRUSTED.set(True)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def _check_trusted(file: Path) -> None:
    for folder in () if _TRUSTED.get() else _BARRED.get():
        if file.is_relative_to(folder):
            raise UserError(
                f"{file} lies within {folder} and would run as a program. Read it. If you trust it, give --trust "
                "(in Python: with lana.trust_code(): …)."
            )


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package, or explain how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"The package {module!r} could not be imported ({error}). "
            f"Install it with: pip install -e '.[{extra}]' in lana's folder."
        ) from error


def import_torchvision() -> ModuleType:
    """torchvision, also where its compiled operators do not match the installed torch.

    Declaring those operators' schemas first lets its models and transforms, and all of timm, work; nothing here
    needs the compiled operators themselves.
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    if importlib.util.find_spec("torchvision") is None:
        return require("torchvision", extra="vision")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torch

    for operator in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
        with contextlib.suppress(RuntimeError):  # declared already
            torch.library.define(f"torchvision::{operator}", "(Tensor x) -> Tensor")
    return importlib.import_module("torchvision")


def function_from_file(path: str, name: str, *, what: str) -> Callable[..., Any]:
    """The function `name` of the Python file `path`; it may import its neighbours.

    Raises:
        UserError: no such file, the file fails to import, or it has no such function (near names offered).
    """
    module = import_file(path, what=what)
    function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{path} has no function {name!r}.{near(name, public)}")
    return importing_neighbours(function, path)


def importing_neighbours(function: Callable[..., Any], path: str | Path) -> Callable[..., Any]:
    """The function of a file with the file's folder to import from while it runs."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with fenced(), _importing_from(Path(path).expanduser().resolve().parent):
            return function(*args, **kwargs)

    return called


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def import_file(path: str, *, what: str) -> ModuleType:
    """A Python file as a module; it may import its neighbours.

    Raises:
        UserError: no such file, or it fails to import.
    """
    file = python_file(path, what=what)
    _check_trusted(file)
    module_name = f"{_MODULE}{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file. Expected path/to/file.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with fenced(), _importing_from(file.parent):
            spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise UserError(f"{file} fails to import: {_brief(error)}.") from error
    return module


@contextlib.contextmanager
def explain_function(reference: str) -> Iterator[None]:
    """Turn an exception of a user's function into a message that names the place."""
    try:
        with fenced():
            yield
    except UserError:
        raise
    except Exception as error:  # the user's own code
        raise UserError(f"{reference} failed: {_brief(error)} ({place_of(error.__cause__ or error)}).") from error


class EndedProgram(RuntimeError):
    """A user's code raised what would have ended the program without a word."""


@contextlib.contextmanager
def fenced() -> Iterator[None]:
    """Hold up a user's code that would end the program: `sys.exit` and other exceptions that are no `Exception`.

    Raises:
        EndedProgram: instead of them. An interruption passes.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # not `Exception`, so nobody who handles errors of the user's code would see it
        raise EndedProgram(f"it would end lana by {type(error).__name__}({str(error)[:80]})") from error


@contextlib.contextmanager
def told_of_ends() -> Iterator[None]:
    """Turn the end of the program by a user's code, wherever it is called, into a message.

    Raises:
        UserError: see above.
    """
    try:
        with fenced():
            yield
    except EndedProgram as error:
        raise UserError(
            f"Code of yours failed: {error} in {place_of(error.__cause__ or error)}. "
            "Raise an Exception there instead. Finished work is kept."
        ) from error


def place_in_own_code(error: BaseException) -> str:
    """The line of a user's file that raised an exception, itself or by what it called; empty where lana's own did."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_MODULE):
            return f"{frame.f_code.co_filename}, line {line}"
        if module.partition(".")[0] in ("lana", "profilers", "solvers"):
            break
    return ""


def place_of(error: BaseException) -> str:
    """The line that raised an exception."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}"


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:_LONGEST]}"
