"""The asyncio form of the package.

async with sluice.aio.connect("http://127.0.0.1:50051") as client:
    await client.publish("orders", [{"order_id": "1"}])
"""

from sluice.aio.client import AsyncClient, connect
from sluice.aio.stream import AsyncStream

__all__ = ["AsyncClient", "AsyncStream", "connect"]
