"""Where the custom-op library is, and how a session gets it."""

from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import ort_cks

if TYPE_CHECKING:
    import onnxruntime


def get_library_path() -> str:
    """The absolute path of the custom-op library, as ``register_custom_ops_library`` and its like want it.

    Raises:
        FileNotFoundError: the package is not installed, only its sources are on the path.
    """
    # An editable install has two folders: the sources' and the library's.
    for folder in ort_cks.__path__:
        path = Path(folder).absolute() / "libort_cks.so"
        if path.is_file():
            return str(path)
    raise FileNotFoundError(
        f"{ort_cks.__path__[0]} has no libort_cks.so; install the package with 'pip install .', "
        "or with 'pip install -e .' to run from inside its source folder"
    )


def register(
    session_options: "onnxruntime.SessionOptions",
    *,
    tune: bool = False,
    tune_cache: "str | PathLike[str] | None" = None,
) -> None:
    """Registers the custom-op library on a session's options. Harmless when it is registered already.

    Args:
        session_options: left as they are, but for what is asked for here.
        tune: the first run of a shape on a GPU times the fastest kernels that suit it, and keeps the best;
            later sessions of the process know it.
        tune_cache: a file to keep what was found in, for other processes; implies `tune`.

    Raises:
        FileNotFoundError: the package was installed without its library.
        Otherwise what onnxruntime raises, with the library's words: the cache cannot be written or is
        something else, or the library is registered already without it.
    """
    if tune or tune_cache is not None:
        session_options.add_session_config_entry("ort_cks.tune", "1")
    if tune_cache is not None:
        session_options.add_session_config_entry("ort_cks.tune_cache", fspath(tune_cache))
    session_options.register_custom_ops_library(get_library_path())


def import_onnxruntime() -> ModuleType:
    """The ``onnxruntime`` module.

    It is not a dependency of this package, because its CPU and its GPU package overwrite each other.

    Raises:
        ImportError: neither is installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise ImportError(
            "onnxruntime is not installed; pick one: pip install 'ort_cks[gpu]' or pip install 'ort_cks[cpu]'"
        ) from None
    return onnxruntime
