"""Which of CPython's asyncio tests say something about a foreign loop, as unittest test cases.

Two kinds: mixins subclassed here (they ask for a loop by a method), and whole modules run under the injection
of inject.py. Classes that are about the stock loops themselves (selector, proactor, Windows) are left out by name.
"""

import importlib
import unittest

MODULES = (
    "test_buffered_proto", "test_context", "test_eager_task_factory", "test_events", "test_free_threading",
    "test_futures", "test_futures2", "test_graph", "test_locks", "test_pep492", "test_protocols", "test_queues",
    "test_runners", "test_sendfile", "test_server", "test_sock_lowlevel", "test_ssl", "test_sslproto", "test_staggered",
    "test_streams", "test_subprocess", "test_taskgroups", "test_tasks", "test_threads", "test_timeouts",
    "test_transports", "test_unix_events", "test_waitfor",
)

# Test classes that create or inspect a stock loop by name: they would test asyncio, not the loop under test.
STOCK_CLASSES = {
    "test_events": {"SelectEventLoopTests", "KqueueEventLoopTests", "PollEventLoopTests", "EPollEventLoopTests",
                    "SelectorEventLoopTests", "ProactorEventLoopTests", "PolicyTests"},
    "test_sendfile": {"SelectEventLoopTests", "KqueueEventLoopTests", "PollEventLoopTests", "EPollEventLoopTests",
                      "SelectorEventLoopTests", "ProactorEventLoopTests"},
    "test_sock_lowlevel": {"SelectEventLoopTests", "KqueueEventLoopTests", "PollEventLoopTests", "EPollEventLoopTests",
                           "SelectorEventLoopTests", "ProactorEventLoopTests"},
    "test_server": {"SelectorStartServerTests", "ProactorStartServerTests"},
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

    by_create = {"create_event_loop": create_event_loop}
    by_new = {"new_loop": create_event_loop}
    return {
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


def collect(new_loop):
    """All tests as an ordered dict: id ("events.Events.test_call_later") -> TestCase."""
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
