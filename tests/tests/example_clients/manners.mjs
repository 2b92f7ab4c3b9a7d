// Loops over examples/clients/herald.mjs that are refused, left and closed. Prints what it observes.
import { pathToFileURL } from "node:url";

const [client, url] = process.argv.slice(2);
const { Herald } = await import(pathToFileURL(client));
const check = (is, what) => { if (!is) throw new Error(what); };
const refused = (promise) => promise.then(() => { throw new Error("it was not refused"); }, (error) => error.message);

const herald = await Herald.connect(url, { prefetch: 10 });
const other = await Herald.connect(url, { prefetch: 10 });
const first = await herald.subscribe("t", "s");
check((await refused(herald.subscribe("t", "another"))).includes("already subscribed to topic t"), "another");
check((await refused(herald.subscribe("t"))).includes("already subscribed to topic t"), "its own");
for (let n = 0; n < 10; n++) {
  const { outcome, topic, id, level } = await herald.publish("t", n, { id: `e${n}` });
  check(outcome === "published" && topic === "t" && id === `e${n}` && level === "synced", "the confirmation");
}
check((await refused(herald.subscribe("a b"))).includes('invalid topic name "a b"'), "a topic with a blank");
check((await refused(herald.subscribe("u", "a b"))).includes('invalid subscription name "a b"'), "a name with a blank");
check((await refused(herald.publish("a\nb", 1))).includes("invalid topic name"), "a topic with a line break");
// The first loop continues, and leaving it gives back its prefetched events.
for await (const event of first) {
  if (event.msg !== 0) continue;
  check(await event.ack(), "acknowledged");
  break;
}
const seen = [];
for await (const event of await other.subscribe("t", "s")) {
  check(await event.ack(), "acknowledged");
  if (seen.push(event.msg) === 9) break;
}
check(seen.sort().join() === "1,2,3,4,5,6,7,8,9", seen.join());
console.log("given back");
// Another loop attaches again, and closing the client ends it.
await herald.publish("t", "again");
setTimeout(() => herald.close(), 1500);
for await (const event of first) {
  check(await event.ack(), "acknowledged");
  console.log(event.msg);
}
for await (const event of first) throw new Error(event.msg);
console.log("closed");
other.close();
console.log((await refused(Herald.connect("tcp://localhost:1", { connectTimeoutMs: 300 }))).split(" ").slice(-3).join(" "));
