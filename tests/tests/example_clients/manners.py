"""Loops over examples/clients/herald.py that are refused, left and closed. Says what it sees."""
import asyncio
import sys

sys.path.insert(0, sys.argv[1])
from herald import Herald, HeraldError

PORT = int(sys.argv[2])


async def refused(awaitable):
    try:
        await awaitable
    except HeraldError as error:
        return str(error)
    raise AssertionError("it was not refused")


async def left(herald, subscription):
    async for event in subscription:
        if event.msg == 0:
            assert await event.ack()
            break


async def main():
    async with Herald("localhost", PORT, prefetch=10) as herald, Herald("localhost", PORT, prefetch=10) as other:
        first = await herald.subscribe("t", "s")
        assert "already subscribed to topic t" in await refused(herald.subscribe("t", "another"))
        assert "already subscribed to topic t" in await refused(herald.subscribe("t"))
        for n in range(10):
            confirmation = await herald.publish("t", n, id=f"e{n}")
            assert (confirmation.outcome, confirmation.topic, confirmation.id, confirmation.level) == ("published", "t", f"e{n}", "synced")
        assert 'invalid topic name "a b"' in await refused(herald.subscribe("a b"))
        assert 'invalid subscription name "a b"' in await refused(herald.subscribe("u", "a b"))
        try:
            await herald.publish("a\nb", 1)
        except HeraldError as error:
            assert "invalid topic name" in str(error)
        # The first loop continues, and leaving it gives back its prefetched events.
        await left(herald, first)
        seen = []
        async for event in await other.subscribe("t", "s"):
            assert await event.ack()
            seen.append(event.msg)
            if len(seen) == 9:
                break
        assert sorted(seen) == list(range(1, 10)), seen
        print("given back", flush=True)
        # Another loop attaches again, and closing the client ends it.
        await herald.publish("t", "again")
        loops = 0

        async def loop():
            nonlocal loops
            async for event in first:
                assert await event.ack()
                print(event.msg, flush=True)
            loops += 1

        task = asyncio.create_task(loop())
        await asyncio.sleep(1.5)
        assert not task.done()
        await herald.close()
        await task
        assert loops == 1
        assert [event async for event in first] == []
        print("closed", flush=True)
    try:
        async with Herald("localhost", 1, connect_timeout=0.3):
            pass
    except HeraldError as error:
        print(" ".join(str(error).split(": ")[0].split(" ")[-3:]), flush=True)


asyncio.run(main())
