"""Operations of database clients, in the form of micro/cases.py: `async def case(loop, count)`.

The port of the server is in BENCH_PORT. Connections are made in the first call and kept.
"""

from __future__ import annotations

import asyncio
import os

CONNECTIONS = 16

_made: dict[str, object] = {}


async def _spread(count: int, operation) -> None:
    """`count` operations, one in flight on each connection."""

    async def several(number: int) -> None:
        for _ in range(number):
            await operation()

    each, left = divmod(count, CONNECTIONS)
    await asyncio.gather(*(several(each + (number < left)) for number in range(CONNECTIONS)))


async def asyncpg_select(loop, count):
    """A prepared SELECT of one row on a pooled connection."""
    import asyncpg

    if "pool" not in _made:
        _made["pool"] = await asyncpg.create_pool(
            host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), user="bench", database="postgres",
            min_size=CONNECTIONS, max_size=CONNECTIONS,
        )  # fmt: skip
    pool = _made["pool"]

    async def operation():
        assert await pool.fetchval("SELECT $1::int + 1", 1) == 2

    await _spread(count, operation)


async def redis_get(loop, count):
    """A GET of 100 bytes on a pooled connection of redis-py."""
    import redis.asyncio

    if "redis" not in _made:
        client = redis.asyncio.Redis(
            host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), max_connections=CONNECTIONS
        )
        await client.set("key", b"x" * 100)
        _made["redis"] = client
    client = _made["redis"]

    async def operation():
        assert len(await client.get("key")) == 100

    await _spread(count, operation)
