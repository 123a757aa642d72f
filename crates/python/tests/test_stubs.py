"""The type stubs are those of the declarations."""

import importlib.util
from importlib.resources import files

from conftest import REPOSITORY


def test_the_stubs_are_fresh_and_in_the_package():
    spec = importlib.util.spec_from_file_location("stubs", REPOSITORY / "crates/python/stubs.py")
    stubs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stubs)
    package = files("hfauto_pipe")
    assert (package / "py.typed").is_file()
    assert (package / "__init__.pyi").read_text() == stubs.text(), "run `just stubs`"
