"""Publishes and consumes through examples/clients/herald.py, and says line by line how far it is."""
import asyncio
import ssl
import sys

sys.path.insert(0, sys.argv[1])
from herald import Herald, HeraldError

PORT, EVENTS = int(sys.argv[2]), 1000


async def consume(events, seen):
    async for event in events:
        # An acknowledgement that a kill left unanswered may have counted, so deliveries are counted instead.
        known = len(seen)
        seen.add(event.msg)
        if len(seen) in (100, 600) and len(seen) != known:
            print("consuming", flush=True)
        await event.ack()
        if len(seen) == EVENTS:
            return


async def take(events, id):
    async for event in events:
        if event.id == id:
            return event
        await event.ack()


async def main():
    tls = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else None
    async with Herald("localhost", PORT, token="s3cret", tls=tls, prefetch=100) as herald:
        seen, events = set(), await herald.subscribe("tweets", "inbox")
        consumers = [asyncio.create_task(consume(events, seen)) for _ in range(20)]
        published = []
        for n in range(EVENTS):
            published.append(herald.publish("tweets", n, priority=n % 7))
            if n % 50 == 0:
                await published[n - n % 100]
        confirmed = await asyncio.gather(*published)
        assert len(confirmed) == EVENTS and all(one.topic == "tweets" and one.level == "synced" for one in confirmed)
        await asyncio.wait(consumers, return_when=asyncio.FIRST_COMPLETED)
        for consumer in consumers:
            consumer.cancel()
        assert seen == set(range(EVENTS))
        print("consumed", flush=True)
        # A nacked event comes again, a terminated one does not, and a refusal is an error.
        await herald.publish("tweets", "again", id="again")
        event = await take(events, "again")
        assert event.redelivered == 0 and await event.touch() and await event.nack(10)
        event = await take(events, "again")
        assert event.redelivered == 1 and await event.term("no\nuse") and not await event.ack()
        for refused in (herald.publish("tweets", priority=0.5), herald.subscribe("not/a/name")):
            try:
                await refused
            except HeraldError as error:
                print(error, flush=True)
    try:
        async with Herald("localhost", PORT, token="wrong", tls=tls):
            pass
    except HeraldError as error:
        print(error, flush=True)


asyncio.run(main())
