"""A client of the Herald broker for asyncio: one file, Python 3.9 or newer, nothing to install.

    async with Herald("localhost", 8000, token="…", tls=ssl.create_default_context()) as herald:
        await herald.publish("tweets", "hello", priority=3)  # the confirmation; have many under way, and gather() them
        async for event in await herald.subscribe("tweets", "inbox"):
            print(event.msg)
            await event.ack()  # or nack(delay_ms), term(reason), touch()

A lost connection is made again, subscriptions included, and what was not confirmed is published again with the same id: an event may
come twice, and nothing that was confirmed is lost. docs/protocol.md says how it works.
"""
import asyncio
import json
import random
import uuid
from collections import deque
from functools import partial

# Errors that answer no command: after each of them the broker closes the connection, and another one may do better.
UNASKED = ("error: server is full", "error: too many failed", "error: tokens have changed", "error: the storage was opened again")


class HeraldError(Exception): """The broker has refused something; the text says what and why."""


class Event:
    """What a subscription delivers. Its methods tell whether the broker has counted it; if not, the event may come again."""
    def __init__(self, settle, topic, id, priority, msg, redelivered=0, dead=None, **_of_later_versions):
        self._settle, self.topic, self.id, self.priority, self.msg = settle, topic, id, priority, msg
        self.redelivered, self.dead = redelivered, dead

    def ack(self):  # it is done
        return self._settle(f"ACKNOWLEDGE {self.topic} {self.id}")

    def nack(self, delay_ms=0):  # not now: it comes again
        return self._settle(f"nack {self.topic} {self.id} {delay_ms}")

    def term(self, reason=""):  # never: it goes to the dead letters
        return self._settle(f"term {self.topic} {self.id} {' '.join(reason.split())}")

    def touch(self):  # more time for it, where its topic has an ack_timeout_ms
        return self._settle(f"touch {self.topic} {self.id}")


class Subscription(asyncio.Queue):
    """`async for event in subscription`."""
    def __init__(self, topic, name):
        super().__init__()
        self.line, self.ready = f"SUBSCRIBE {topic} {name or ''}", asyncio.get_running_loop().create_future()

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not isinstance(event := await self.get(), Exception):
            return event
        self.put_nowait(event)  # for whoever asks again
        raise event

    def answered(self, line):
        if line:
            self.fail(HeraldError(line)) if line.startswith("error: ") else self.ready.done() or self.ready.set_result(self)

    def fail(self, error):
        self.put_nowait(error)
        self.ready.done() or self.ready.set_exception(error)


class Herald:
    """`tls`: an ssl.SSLContext. `silence`: seconds without a line after which the broker has to answer a ping, and as many for that."""
    def __init__(self, host="localhost", port=8000, *, token=None, tls=None, prefetch=100, client="herald.py", silence=30):
        self._address, self._tls, self._silence = (host, port), tls, silence
        self._hello = {"client": client, "prefetch": prefetch, "confirm": True, **({"token": token} if token else {})}
        self._subscriptions, self._unconfirmed = {}, {}  # by topic; and lines by their future, in the order of publication
        self._writer, self._error, self._unanswered = None, None, deque()  # the last: what to call with the answers, in their order

    async def __aenter__(self):  # waits until the broker is there for the first time, however long that takes
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())
        self._ready.add_done_callback(lambda ready: ready.cancelled() and self._task.cancel())
        return await self._ready

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.wait([self._task])
        self._fail(HeraldError("the client is closed"))

    def publish(self, topic, msg=None, *, priority=0, id=None, **options):
        """Publishes an event, with ttl_ms and delay_ms if given. The future is its confirmation: `published tweets 042 synced`."""
        event = {"id": str(uuid.uuid4() if id is None else id), "priority": priority, "msg": msg, **options}
        line, confirmation = f"PUBLISH {topic} {json.dumps(event)}", asyncio.get_running_loop().create_future()
        if self._error:
            confirmation.set_exception(self._error)
        else:
            self._unconfirmed[confirmation] = line
            confirmation.add_done_callback(self._unconfirmed.pop)
            self._send(line, partial(self._answered, confirmation))
        return confirmation

    async def subscribe(self, topic, name=None):
        """Attaches to a durable subscription; without a name to one of this connection's own, which is lost with it."""
        subscription = self._subscriptions[topic] = Subscription(topic, name)
        subscription.fail(self._error) if self._error else self._send(subscription.line, subscription.answered)
        return await subscription.ready

    def _send(self, line, answered):
        if self._writer is None or self._writer.is_closing():
            return answered(None)
        self._unanswered.append(answered)
        self._writer.write(line.replace("\n", " ").encode() + b"\n")

    def _answered(self, confirmation, answer):
        if answer and not confirmation.done():  # no answer: the connection was lost, and the next one publishes it again
            fail = answer.startswith("error: ")
            confirmation.set_exception(HeraldError(answer)) if fail else confirmation.set_result(answer)

    def _settle(self, line):
        done = asyncio.get_running_loop().create_future()
        self._send(line, lambda answer: done.done() or done.set_result(" ev_id=" in (answer or "")))
        return done

    async def _run(self):
        pause = 0.1
        while True:
            writer = None
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(*self._address, ssl=self._tls, limit=1 << 28), 10)
                writer.write(f"hello {json.dumps(self._hello)}\n".encode())
                while not (line := await self._line(reader, writer)).startswith("hello "):
                    if line.startswith("error: "):
                        raise (ConnectionError if line.startswith(UNASKED) else HeraldError)(line)
                self._ready.done() or self._ready.set_result(self)
                self._writer, pause = writer, 0.1
                for what in self._subscriptions.values():
                    self._send(what.line, what.answered)
                for confirmation, line in self._unconfirmed.items():
                    self._send(line, partial(self._answered, confirmation))
                while True:
                    self._take(await self._line(reader, writer))
            except (HeraldError, ValueError) as error:  # a bad certificate is a ValueError
                return self._fail(error)
            except (OSError, EOFError, asyncio.TimeoutError):
                pass  # it is lost, or the broker is not there
            finally:
                self._lose(writer)
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, 5)

    async def _line(self, reader, writer):
        try:
            line = await asyncio.wait_for(reader.readline(), self._silence)
        except asyncio.TimeoutError:
            self._unanswered.append(lambda _: None)
            writer.write(b"ping\n")
            line = await asyncio.wait_for(reader.readline(), self._silence)
        if not line.endswith(b"\n"):
            raise EOFError
        return line.decode().rstrip("\r\n")

    def _take(self, line):
        if line.startswith('{"topic":'):
            event = Event(self._settle, **json.loads(line))
            if event.topic in self._subscriptions:
                self._subscriptions[event.topic].put_nowait(event)
        elif line.startswith(UNASKED):
            raise ConnectionError(line)
        elif line.startswith('error: subscription "') and line.endswith(" was removed"):
            self._subscriptions.pop(line.split()[-3]).fail(HeraldError(line))
        elif line != "no available message":
            self._unanswered.popleft()(line)

    def _lose(self, writer):
        if writer:
            writer.close()
        unanswered, self._unanswered, self._writer = self._unanswered, deque(), None
        for answered in unanswered:
            answered(None)
        for subscription in self._subscriptions.values():
            while not self._error and not subscription.empty():  # it comes again
                subscription.get_nowait()

    def _fail(self, error):
        self._error = self._error or error
        for future in [self._ready, *self._unconfirmed]:
            future.done() or future.set_exception(error)
        for subscription in self._subscriptions.values():
            subscription.fail(error)


async def demo():
    async with Herald() as herald:
        events = await herald.subscribe("demo", "inbox")
        print(await herald.publish("demo", "hello", priority=3))
        async for event in events:
            print(event.priority, event.msg, "acknowledged" if await event.ack() else "comes again")


if __name__ == "__main__":
    asyncio.run(demo())
