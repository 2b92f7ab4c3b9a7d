// Publishes and consumes through examples/clients/herald.mjs, and prints its progress line by line. Shared by pages and Node.
export async function run(herald, say, events = 1000) {
  const subscription = await herald.subscribe("tweets", "inbox");
  // An acknowledgement that a kill left unanswered may have counted, so deliveries are counted instead.
  const seen = new Set();
  const consumed = (async () => {
    for await (const event of subscription) {
      const known = seen.size;
      seen.add(event.msg);
      event.ack();
      if (seen.size !== known && [100, 600].includes(seen.size)) say("consuming");
      if (seen.size === events) return;
    }
  })();
  const published = [];
  for (let n = 0; n < events; n++) {
    published.push(herald.publish("tweets", n, { priority: n % 7 }));
    if (n % 50 === 0) await published[n - (n % 100)];
  }
  for (const { outcome, topic, level } of await Promise.all(published)) {
    if (!["published", "replaced"].includes(outcome) || topic !== "tweets" || level !== "synced") throw new Error(outcome);
  }
  await consumed;
  say("consumed");

  // A nacked event comes again, a terminated one does not, and a refusal is an error.
  const check = (is) => { if (!is) throw new Error("it is not as it should be"); };
  const take = async () => {
    for await (const event of subscription) {
      if (event.id === "again") return event;
      event.ack();
    }
  };
  await herald.publish("tweets", "again", { id: "again" });
  const first = await take();
  check(first.redelivered === 0 && (await first.touch()) && (await first.nack(10)));
  const second = await take();
  check(second.redelivered === 1 && (await second.term("no\nuse")) && !(await second.ack()));
  await herald.publish("tweets", null, { priority: 0.5 }).catch((error) => say(error.message));
  await herald.subscribe("not/a/name").catch((error) => say(error.message));
  herald.close();
}
