"""A TCP proxy that makes a network slow, silent or broken, for everything that goes through it."""

import asyncio
import contextlib
import threading

from launcher import HOST

CHUNK = 64 * 1024


class Proxy:
    """Listens on a port of its own and hands all bytes on, each `delay_s` after it came.

    `silent`: takes bytes and hands none on until it is false again.
    """

    def __init__(self, port, target):
        self.port, self.target = port, target
        self.delay_s = 0.0
        self.silent = False
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        self.open = set()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_):
        self._run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def cut(self):
        """Breaks every connection; new ones are taken."""
        self._run(self._cut())

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def _listen(self):
        self.server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _stop(self):
        self.server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _cut(self):
        for writer in self.open:
            writer.transport.abort()
        self.open.clear()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self.open |= pair
        with contextlib.suppress(OSError):
            ways = self._hand_on(reader, far_writer), self._hand_on(far_reader, writer)
            await asyncio.gather(*ways)
        for one in pair:
            one.transport.abort()
        self.open -= pair

    async def _hand_on(self, reader, writer):
        """Bytes are read on while earlier ones wait, so that a delay is none of the throughput."""
        waiting = asyncio.Queue()

        async def write():
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0, due - self.loop.time()))
                while self.silent:
                    await asyncio.sleep(0.05)
                if not data:
                    return
                writer.write(data)
                await writer.drain()

        writing = asyncio.ensure_future(write())
        try:
            while data := await reader.read(CHUNK):
                waiting.put_nowait((self.loop.time() + self.delay_s, data))
            waiting.put_nowait((self.loop.time(), b""))
            await writing
            writer.close()
        finally:
            writing.cancel()
