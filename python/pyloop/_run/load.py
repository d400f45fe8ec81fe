"""Finds the object that `MODULE:ATTR` names and tells what it is: an ASGI application or a main function."""

import functools
import importlib
import inspect


class LoadError(Exception):
    """What to tell the user, in one line; __cause__ is what happened."""


def load(target):
    """The object behind "package.module:attribute.attribute"."""
    module_name, separator, path = target.partition(":")
    if not module_name or not separator or not path:
        raise LoadError(f'"{target}" is not of the form MODULE:ATTRIBUTE')
    try:
        found = importlib.import_module(module_name)
    except Exception as error:
        raise LoadError(_import_failure(module_name, error)) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise LoadError(f'attribute "{path}" not found in module "{module_name}"') from error
    return found


def _import_failure(module_name, error):
    if isinstance(error, ModuleNotFoundError):
        missing = error.name or ""
        if missing == module_name or module_name.startswith(missing + "."):
            return f'could not import module "{module_name}"'
    return f'importing module "{module_name}" failed: {describe(error)}'


def describe(error):
    """Type and first line of an exception."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def call_factory(factory, target):
    if not callable(factory):
        raise LoadError(f'"{target}" is not a factory: it is {_kind_of(factory)}')
    try:
        return factory()
    except Exception as error:
        raise LoadError(f'the factory "{target}" failed: {describe(error)}') from error


def _kind_of(found):
    if inspect.ismodule(found):
        return "a module"
    article = "an" if type(found).__name__[:1].lower() in "aeiou" else "a"
    return f"{article} {type(found).__name__}"


def _accepts(function, count):
    """Can it be called with `count` positional arguments? None if nobody knows."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _is_coroutine_function(found):
    while isinstance(found, functools.partial):
        found = found.func
    if inspect.iscoroutinefunction(found):
        return True
    return inspect.iscoroutinefunction(getattr(found, "__call__", None))


def _as_application(found):
    """An ASGI 3 application, or None. ASGI 2 (a callable of the scope that returns a callable) is wrapped."""
    if not callable(found):
        return None
    if inspect.isclass(found):
        # ASGI 3: the instance is what is awaited. ASGI 2: the instance is called.
        return found if hasattr(found, "__await__") else _wrap_two(found)
    if _accepts(found, 3) is not False:
        return found
    return _wrap_two(found)


def _wrap_two(found):
    if _accepts(found, 1) is False:
        return None

    async def application(scope, receive, send):
        await found(scope)(receive, send)

    return application


def _as_main(found):
    """A function without required arguments whose result is awaited, or None."""
    return found if callable(found) and _accepts(found, 0) is not False else None


def resolve(found, target, interface="auto"):
    """("asgi", application) or ("main", function)."""
    if interface in ("asgi", "asgi2", "asgi3"):
        application = _wrap_two(found) if interface == "asgi2" and callable(found) else _as_application(found)
        if application is not None:
            return "asgi", application
        raise LoadError(f'"{target}" is not an ASGI application: it is {_kind_of(found)}')
    is_main = _is_coroutine_function(found) and not inspect.isclass(found) and _as_main(found) is not None
    if interface == "main":
        if is_main or (inspect.isroutine(found) and _as_main(found) is not None):
            return "main", found
        raise LoadError(f'"{target}" is not a function without required arguments: it is {_kind_of(found)}')
    if is_main:
        return "main", found
    application = _as_application(found)
    if application is not None:
        return "asgi", application
    hint = ""
    if callable(found) and _accepts(found, 0):
        hint = " (is it a factory? then add --factory)"
    raise LoadError(
        f'"{target}" is neither an ASGI application nor an async function without required arguments: '
        f"it is {_kind_of(found)}{hint}")
