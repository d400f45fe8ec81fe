"""For tests of the C interface: compiles and loads the modules of tests/extension, as a user does."""

import importlib.util
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import sysconfig

import pytest

import pyloop

FOLDER = pathlib.Path(__file__).parent.parent / "extension"
COMPILER = shlex.split(os.environ.get("CC", "cc"))

needs_compiler = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="no C compiler")


def compile_extension(folder, source, name, options=()):
    """The path of the module `name`, made in `folder` against the installed headers."""
    target = folder / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    flags = ["-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
             "-Wno-missing-field-initializers", "-pthread"]
    if sys.platform == "darwin":
        flags += ["-undefined", "dynamic_lookup"]
    subprocess.run([*COMPILER, *flags, *options, "-I", pyloop.get_include(), "-isystem",
                    sysconfig.get_path("include"), "-o", target, source], check=True)
    return target


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
