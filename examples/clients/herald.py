"""A client of the Herald broker for asyncio: one file, Python 3.9 or newer, nothing to install.

    async with Herald("localhost", 8000, token="…", tls=ssl.create_default_context()) as herald:
        await herald.publish("tweets", "hello", priority=3)  # the confirmation; have many under way, and gather() them
        async for event in await herald.subscribe("tweets", "inbox"):
            print(event.msg)
            await event.ack()  # or nack(delay_ms), term(reason), touch()

Leaving the loop gives back what is not settled, a second later, unless another loop over the same subscription begins. Closing the
client ends all loops.

A lost connection is made again, subscriptions included, and what was not confirmed is published again with the same id: an event may
come twice, and nothing that was confirmed is lost. docs/protocol.md says how it works.
"""
import asyncio
import json
import random
import re
import uuid
from collections import deque
from functools import partial

# Errors that answer no command: after each of them the broker closes the connection, and another one may do better.
UNASKED = ("error: server is full", "error: too many failed", "error: tokens have changed", "error: the storage was opened again")


LEAVING = 1.0  # seconds in which events in hand can still be settled, after the last loop was left


class HeraldError(Exception): """The broker has refused something; the text says what and why."""


class Confirmation(str):
    """What became of an event: its `outcome` (published, replaced, dropped), `topic`, `id` and `level` (synced, written, memory, or what
    the broker says instead); None where it says nothing. As a string it is the broker's line."""
    def __init__(self, line):
        self.outcome, self.topic, self.id, self.level = (line.split(" ") + [None] * 4)[:4]


def checked(kind, text):
    if not re.fullmatch(r"[^\s\x00-\x1f\x7f]+", text):  # it would be two words of the command, or two commands
        raise HeraldError(f"error: invalid {kind} name {json.dumps(text)}: a name is made of A-Z a-z 0-9 . _ : -")
    return text


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


class Subscription:
    """`async for event in subscription`, in as many loops as you like: each event goes to one of them."""
    def __init__(self, herald, topic, name):
        self._herald, self.topic = herald, topic
        self.line, self.ready = f"SUBSCRIBE {topic} {name or ''}", asyncio.get_running_loop().create_future()
        self._events, self._takers, self._end = deque(), deque(), None  # the last: an error, or StopAsyncIteration
        self._loops, self._leaving, self.attached = 0, None, True

    async def __aiter__(self):
        self._loops += 1
        try:
            while True:
                try:
                    event = await self.__anext__()
                except StopAsyncIteration:
                    return
                yield event
        finally:  # also where the loop is left, by `break` or by an error in it
            self._loops -= 1
            self._left()

    async def __anext__(self):
        if self._leaving:
            self._leaving.cancel()
            self._leaving = None
        if not self.attached and not self._end:
            await self._herald._attach(self)
        while not self._events:
            if self._end:
                raise self._end
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                self._events and self._wake()  # what may have come for it is for another one
                raise
            finally:
                self._takers.remove(taker)
        return self._events.popleft()

    def _wake(self):
        for taker in self._takers:
            if not taker.done():
                return taker.set_result(None)

    def _left(self):
        if not (self._loops or self._end or self._leaving) and self.attached:
            self._leaving = asyncio.get_running_loop().call_later(LEAVING, self._herald._detach, self)

    def deliver(self, event):
        self._events.append(event)
        self._wake()

    def answered(self, line):
        if line and line.startswith("error: "):
            self._herald._subscriptions.pop(self.topic, None)  # there is one for each topic
            self.end(HeraldError(line))
        elif line:
            self.ready.done() or self.ready.set_result(self)

    def forget(self):  # what has not been taken comes again
        self._events.clear()

    def end(self, error, loops=None):
        self._end = self._end or loops or error
        self._events.clear()
        for taker in self._takers:
            taker.done() or taker.set_result(None)
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # loops are told as well


class Herald:
    """`tls`: an ssl.SSLContext. `silence`: seconds without a line after which the broker has to answer a ping, and as many for that.
    `connect_timeout`: seconds in which a broker has to be there for the first time; None: however long that takes."""
    def __init__(self, host="localhost", port=8000, *, token=None, tls=None, prefetch=100, client="herald.py", silence=30, connect_timeout=10):
        self._address, self._tls, self._silence, self._connect_timeout = (host, port), tls, silence, connect_timeout
        self._hello = {"client": client, "prefetch": prefetch, "confirm": True, **({"token": token} if token else {})}
        self._subscriptions, self._unconfirmed = {}, {}  # by topic; and lines by their future, in the order of publication
        self._writer, self._error, self._unanswered = None, None, deque()  # the last: what to call with the answers, in their order

    async def __aenter__(self):
        self._ready, self._cause = asyncio.get_running_loop().create_future(), "no answer"
        self._task = asyncio.create_task(self._run())
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), self._connect_timeout)
        except asyncio.TimeoutError:
            host, port = self._address
            raise HeraldError(f"no broker at {host}:{port} within {self._connect_timeout} s: {self._cause}") from None
        finally:
            if not self._ready.done() or self._ready.exception():
                await self.close()

    async def __aexit__(self, *_):
        await self.close()

    async def close(self):
        """Ends it: what is not confirmed fails, and loops end."""
        closed = HeraldError("the client is closed")
        self._error = self._error or closed
        for subscription in self._subscriptions.values():
            subscription.end(closed, StopAsyncIteration() if self._error is closed else None)
        while not self._task.done():  # again and again: before Python 3.12, wait_for() may swallow a cancellation
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.1)
        self._fail(closed)

    def publish(self, topic, msg=None, *, priority=0, id=None, **options):
        """Publishes an event, with ttl_ms and delay_ms if given. The future is its Confirmation."""
        topic = checked("topic", topic)
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
        subscription = Subscription(self, checked("topic", topic), name and checked("subscription", name))
        return await self._attach(subscription)

    async def _attach(self, subscription):
        other = self._subscriptions.get(subscription.topic)
        if self._error:
            raise self._error
        if other and other._leaving:  # its loop is over
            other._leaving.cancel()
            self._detach(other)
        elif other and other is not subscription:
            raise HeraldError(f"error: already subscribed to topic {subscription.topic} on this client; leave its loop first")
        self._subscriptions[subscription.topic] = subscription
        subscription.attached = True
        if subscription.ready.done():
            subscription.ready = asyncio.get_running_loop().create_future()
        self._send(subscription.line, subscription.answered)
        return await asyncio.shield(subscription.ready)

    def _detach(self, subscription):
        subscription.attached, subscription._leaving = False, None
        subscription.forget()
        if self._subscriptions.get(subscription.topic) is subscription:
            del self._subscriptions[subscription.topic]
            self._send(f"detach {subscription.topic}", lambda _: None)

    def _send(self, line, answered):
        if self._writer is None or self._writer.is_closing():
            return answered(None)
        self._unanswered.append(answered)
        self._writer.write(line.replace("\n", " ").encode() + b"\n")

    def _answered(self, confirmation, answer):
        if answer and not confirmation.done():  # no answer: the connection was lost, and the next one publishes it again
            fail = answer.startswith("error: ")
            confirmation.set_exception(HeraldError(answer)) if fail else confirmation.set_result(Confirmation(answer))

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
                for what in list(self._subscriptions.values()):
                    self._send(what.line, what.answered)
                for confirmation, line in self._unconfirmed.items():
                    self._send(line, partial(self._answered, confirmation))
                while True:
                    self._take(await self._line(reader, writer))
            except (HeraldError, ValueError) as error:  # a bad certificate is a ValueError
                return self._fail(error)
            except (OSError, EOFError, asyncio.TimeoutError) as error:
                self._cause = str(error) or type(error).__name__  # it is lost, or the broker is not there
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
                self._subscriptions[event.topic].deliver(event)
        elif line.startswith(UNASKED):
            raise ConnectionError(line)
        elif line.startswith('error: subscription "') and line.endswith(" was removed"):
            subscription = self._subscriptions.pop(line.split()[-3], None)
            subscription and subscription.end(HeraldError(line))
        elif line != "no available message":
            self._unanswered.popleft()(line)

    def _lose(self, writer):
        if writer:
            writer.close()
        unanswered, self._unanswered, self._writer = self._unanswered, deque(), None
        for answered in unanswered:
            answered(None)
        for subscription in self._subscriptions.values():
            subscription.forget()

    def _fail(self, error):
        self._error = self._error or error
        for future in [self._ready, *self._unconfirmed]:
            future.done() or future.set_exception(error)
        self._ready.exception()  # nothing may wait for it any more
        for subscription in list(self._subscriptions.values()):
            subscription.end(error)


async def demo():
    async with Herald() as herald:
        events = await herald.subscribe("demo", "inbox")
        print(await herald.publish("demo", "hello", priority=3))
        async for event in events:
            print(event.priority, event.msg, "acknowledged" if await event.ack() else "comes again")


if __name__ == "__main__":
    asyncio.run(demo())
