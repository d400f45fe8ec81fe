"""Which of CPython's asyncio tests say something about a foreign loop, as unittest test cases.

Two kinds: mixins subclassed here (they ask for a loop by a method), and whole modules run under the injection
of inject.py. Classes that are about the stock loops themselves (selector, proactor, Windows) are left out by name.
"""

import importlib
import pkgutil
import unittest

MODULES = (
    "test_buffered_proto", "test_context", "test_eager_task_factory", "test_events", "test_free_threading",
    "test_futures", "test_futures2", "test_graph", "test_locks", "test_pep492", "test_protocols", "test_queues",
    "test_runners", "test_sendfile", "test_server", "test_server_context", "test_sock_lowlevel", "test_ssl",
    "test_sslproto", "test_staggered", "test_streams", "test_subprocess", "test_taskgroups", "test_tasks",
    "test_threads", "test_timeouts", "test_transports", "test_unix_events", "test_waitfor",
)

# The rest of test.test_asyncio says nothing about a foreign loop.
LEFT_OUT = {
    "test_base_events": "BaseEventLoop with a mock for a selector",
    "test_selector_events": "the selector loop with mocks",
    "test_proactor_events": "the proactor loop with mocks",
    "test_windows_events": "Windows",
    "test_windows_utils": "Windows",
    "test_log": "asyncio's logger",
    "test_tools": "asyncio's command line, on data made up",
}

# Test classes that create or inspect a stock loop by name: they would test asyncio, not the loop under test.
STOCK_CLASSES = {
    "test_events": {"SelectEventLoopTests", "KqueueEventLoopTests", "PollEventLoopTests", "EPollEventLoopTests",
                    "SelectorEventLoopTests", "ProactorEventLoopTests", "PolicyTests", "UnixPipeObjectSupportTests"},
    "test_sendfile": {"SelectEventLoopTests", "KqueueEventLoopTests", "PollEventLoopTests", "EPollEventLoopTests",
                      "SelectorEventLoopTests", "ProactorEventLoopTests"},
    "test_sock_lowlevel": {"SelectEventLoopTests", "KqueueEventLoopTests", "PollEventLoopTests", "EPollEventLoopTests",
                           "SelectorEventLoopTests", "ProactorEventLoopTests"},
    "test_server": {"SelectorStartServerTests", "ProactorStartServerTests"},
    "test_server_context": {"AsyncioSelectorEventLoopTests", "AsyncioSelectorEventLoopSSLTests"},
    "test_buffered_proto": {"BufferedProtocolSelectorTests", "BufferedProtocolProactorTests"},
    "test_sslproto": {"SelectorStartTLSTests", "ProactorStartTLSTests"},
    # Their set-up installs a policy that hands out a BaseEventLoop with mocked parts.
    "test_runners": {"RunTests", "RunnerTests"},
    "test_unix_events": {"SelectorEventLoopSignalTests", "SelectorEventLoopUnixSocketTests",
                         "SelectorEventLoopUnixSockSendfileTests", "UnixReadPipeTransportTests",
                         "UnixWritePipeTransportTests", "AbstractChildWatcherTests", "BaseChildWatcherTests",
                         "ChildWatcherTestsMixin", "SafeChildWatcherTests", "FastChildWatcherTests", "PolicyTests"},
}


def _load(name):
    try:
        return importlib.import_module("test.test_asyncio." + name)
    except ImportError as error:
        if error.name and error.name.endswith(name):
            return None  # this interpreter has no such module
        raise
    except unittest.SkipTest:
        return None


def _mixin_classes(new_loop):
    """The parametrised mixins, each with the loop under test."""
    utils = importlib.import_module("test.test_asyncio.utils")
    events, sock, sendfile = _load("test_events"), _load("test_sock_lowlevel"), _load("test_sendfile")
    server, buffered, sslproto = _load("test_server"), _load("test_buffered_proto"), _load("test_sslproto")

    def create_event_loop(self):
        return new_loop()

    def set_up(self):
        self.loop = new_loop()
        self.addCleanup(self.loop.close)

    by_create = {"create_event_loop": create_event_loop}
    by_new = {"new_loop": create_event_loop}
    pipes = getattr(events, "UnixPipeObjectSupportTests", None)  # since 3.15
    return {
        "pipes": [type("Pipes", (pipes,), {"setUp": set_up})] if pipes else [],
        "events": [type("Events", (events.EventLoopTestsMixin, events.SubprocessTestsMixin, utils.TestCase),
                        by_create)],
        "sock": [type("Sock", (sock.BaseSockTestsMixin, utils.TestCase), by_create)],
        "sendfile": [type("Sendfile", (sendfile.SendfileTestsBase, utils.TestCase), by_create)],
        "server": [type("StartServer", (server.SelectorStartServerTests,), by_new)],
        "buffered": [type("Buffered", (buffered.BaseTestBufferedProtocol, unittest.TestCase), by_new)],
        "starttls": [type("StartTLS", (sslproto.BaseStartTLS, unittest.TestCase), by_new)],
    }


def _tests_of_class(prefix, cls):
    loader = unittest.TestLoader()
    for method in loader.getTestCaseNames(cls):
        yield f"{prefix}.{cls.__name__}.{method}", cls(method)


def check_modules():
    """A new version of Python may bring modules that nobody has looked at yet."""
    folder = importlib.import_module("test.test_asyncio").__path__
    unknown = {module.name for module in pkgutil.iter_modules(folder) if module.name.startswith("test_")}
    unknown -= {*MODULES, *LEFT_OUT}
    if unknown:
        raise SystemExit(f"suites.py does not know of {', '.join(sorted(unknown))}")


def collect(new_loop):
    """All tests as an ordered dict: id ("events.Events.test_call_later") -> TestCase."""
    check_modules()
    tests = {}
    for prefix, classes in _mixin_classes(new_loop).items():
        for cls in classes:
            cls.__module__ = __name__
            tests.update(_tests_of_class(prefix, cls))
    for name in MODULES:
        module = _load(name)
        if module is None:
            continue
        left_out = STOCK_CLASSES.get(name, ())
        for attribute, cls in sorted(vars(module).items()):
            if (isinstance(cls, type) and issubclass(cls, unittest.TestCase)
                    and cls.__module__ == module.__name__ and attribute not in left_out):
                tests.update(_tests_of_class(name, cls))
    return tests
