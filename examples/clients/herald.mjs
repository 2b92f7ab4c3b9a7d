/**
 * A client of the Herald broker for browsers and Node (18 or newer): one file, nothing to install.
 *
 *     import { Herald } from "./herald.mjs";
 *     const herald = await Herald.connect("ws://localhost:8001/ws", { token: "…", prefetch: 100 });
 *     await herald.publish("tweets", "hello", { priority: 3 }); // the confirmation; have many under way
 *     for await (const event of await herald.subscribe("tweets", "inbox")) {
 *       console.log(event.msg);
 *       await event.ack(); // or nack(delayMs), term(reason), touch()
 *     }
 *
 * `ws://` and `wss://` go over WebSocket: in browsers, in Node 22, or with a `WebSocket` among the options. Node also has `tcp://` and
 * `tls://`, the option `ca` being the certificate to trust.
 *
 * A lost connection is made again, subscriptions included, and what was not confirmed is published again with the same id: an event
 * may come twice, and nothing that was confirmed is lost. docs/protocol.md says how it works.
 */

// Errors that answer no command: after each of them the broker closes the connection, and another one may do better.
const UNASKED = /^error: (server is full|too many failed|tokens have changed|the storage was opened again)/;
const REMOVED = /^error: subscription ".*" of topic (\S+) was removed$/;
const MAX_PAUSE_MS = 5000;

/** The broker has refused something; the message says what and why. */
export class HeraldError extends Error {}

/** What a subscription delivers. Its methods resolve to whether the broker has counted it; if not, the event may come again. */
class Event {
  #herald;
  constructor(herald, { topic, id, priority, msg, redelivered = 0, dead = null }) {
    this.#herald = herald;
    Object.assign(this, { topic, id, priority, msg, redelivered, dead });
  }

  /** It is done. */
  ack() { return this.#herald._settle(`ACKNOWLEDGE ${this.topic} ${this.id}`); }

  /** Not now: it comes again. */
  nack(delayMs = 0) { return this.#herald._settle(`nack ${this.topic} ${this.id} ${delayMs}`); }

  /** Never: it goes to the dead letters. */
  term(reason = "") { return this.#herald._settle(`term ${this.topic} ${this.id} ${reason}`); }

  /** More time for it, where its topic has an ack_timeout_ms. */
  touch() { return this.#herald._settle(`touch ${this.topic} ${this.id}`); }
}

/** `for await (const event of subscription)`. */
class Subscription {
  #events = [];
  #waiting = [];
  #error = null;
  constructor(herald, topic, name) {
    this.line = `SUBSCRIBE ${topic} ${name}`;
    this.ready = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.ready.catch(() => {}); // whoever asks for events is told as well
    this.detach = () => herald.detach(topic);
  }

  next() {
    if (this.#events.length) return Promise.resolve({ value: this.#events.shift(), done: false });
    if (this.#error) return Promise.reject(this.#error);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  [Symbol.asyncIterator]() { return { next: () => this.next() }; }

  _deliver(event) {
    const taker = this.#waiting.shift();
    if (taker) taker.resolve({ value: event, done: false });
    else this.#events.push(event);
  }

  _answered(line) {
    if (line?.startsWith("error: ")) this._fail(new HeraldError(line));
    else if (line) this.resolve(this);
  }

  _forget() { this.#events = []; }

  _fail(error) {
    this.#error = error;
    this.reject(error);
    for (const taker of this.#waiting.splice(0)) taker.reject(error);
  }
}

/** A connection that is made again when it is lost. */
export class Herald {
  #url; #options; #hello;
  #link = null; // once the broker has let us in
  #end = () => {}; // ends the connection, whatever it is at
  #error = null;
  #subscriptions = new Map(); // by topic
  #unconfirmed = new Set(); // in the order of publication
  #unanswered = []; // what to call with the answers to what this connection was sent, in that order

  /** Waits until the broker is there for the first time, however long that takes. */
  static async connect(url, options = {}) {
    const herald = new Herald();
    herald.#url = url;
    herald.#options = { silenceMs: 30000, ...options };
    const { client = "herald.mjs", prefetch = 100, token } = options;
    herald.#hello = `hello ${JSON.stringify({ client, prefetch, token, confirm: true })}`;
    await new Promise((resolve, reject) => herald.#run(resolve, reject));
    return herald;
  }

  /** Publishes an event; `options`: id, priority, ttl_ms, delay_ms. Resolves to its confirmation, `published tweets 042 synced`. */
  publish(topic, msg = null, options = {}) {
    if (this.#error) return Promise.reject(this.#error);
    const line = `PUBLISH ${topic} ${JSON.stringify({ ...options, id: options.id ?? uuid(), msg })}`;
    return new Promise((resolve, reject) => {
      const settled = (done, value) => { this.#unconfirmed.delete(event); done(value); };
      const answered = (answer) => {
        if (answer === null) return; // the connection was lost, and the next one publishes it again
        if (answer.startsWith("error: ")) settled(reject, new HeraldError(answer));
        else settled(resolve, answer);
      };
      const event = { line, answered, fail: (error) => settled(reject, error) };
      this.#unconfirmed.add(event);
      this.#send(line, answered);
    });
  }

  /** Attaches to a durable subscription; without a name to one of this connection's own, which is lost with it. */
  async subscribe(topic, name = "") {
    if (this.#error) throw this.#error;
    const subscription = new Subscription(this, topic, name);
    this.#subscriptions.set(topic, subscription);
    this.#send(subscription.line, (line) => subscription._answered(line));
    return subscription.ready;
  }

  /** Lets go of a subscription; a durable one stays, and what was not acknowledged waits in it. */
  async detach(topic) {
    this.#subscriptions.delete(topic);
    await this._settle(`detach ${topic}`);
  }

  /** Ends it: what is not confirmed fails. */
  close() {
    this.#fail(new HeraldError("the client is closed"));
    this.#end();
  }

  _settle(line) {
    return new Promise((resolve) => this.#send(line, (answer) => resolve(/^\S+( from logs)? ev_id=/.test(answer ?? ""))));
  }

  #send(line, answered) {
    if (!this.#link) return answered(null);
    this.#unanswered.push(answered);
    this.#link.send(line.replaceAll("\n", " "));
  }

  async #run(resolve, reject) {
    for (let pause = 100; !this.#error; pause = Math.min(pause * 2, MAX_PAUSE_MS)) {
      try {
        await this.#talk(() => { pause = 50; resolve(); });
      } catch (error) {
        this.#fail(error); // a refusal, or a mistake of the caller's: trying again would not help
        reject(error);
      }
      if (!this.#error) await new Promise((resume) => setTimeout(resume, pause * (0.5 + Math.random() / 2)));
    }
  }

  /** One connection, from its beginning to its end. */
  async #talk(letIn) {
    const open = /^(tcp|tls):/.test(this.#url) ? openSocket : openWebSocket;
    let refusal = null;
    let silence;
    await new Promise((ended) => {
      const heard = (link) => {
        clearTimeout(silence);
        silence = setTimeout(() => {
          silence = setTimeout(() => link.close(), this.#options.silenceMs);
          if (this.#link) this.#send("ping", () => {});
        }, this.#options.silenceMs);
      };
      const opened = (link) => {
        this.#end = () => link.close();
        heard(link);
        if (this.#error) link.close(); // the caller has closed meanwhile
      };
      const line = (text, link) => {
        heard(link);
        if (this.#link) return this.#take(text);
        if (text.startsWith("hello ")) return this.#greeted(link, letIn);
        if (text.startsWith("error: ")) {
          if (!UNASKED.test(text)) refusal = new HeraldError(text);
          link.close();
        } else {
          link.send(this.#hello); // the greeting
        }
      };
      open(this.#url, this.#options, { opened, line, ended }).catch((error) => { refusal = error; ended(); });
    });
    clearTimeout(silence);
    this.#link = null;
    for (const answered of this.#unanswered.splice(0)) answered(null);
    for (const subscription of this.#subscriptions.values()) subscription._forget(); // it comes again
    if (refusal) throw refusal;
  }

  #greeted(link, letIn) {
    this.#link = link;
    for (const subscription of this.#subscriptions.values()) {
      this.#send(subscription.line, (line) => subscription._answered(line));
    }
    for (const { line, answered } of this.#unconfirmed) this.#send(line, answered);
    letIn();
  }

  #take(line) {
    if (line.startsWith('{"topic":')) {
      const event = JSON.parse(line);
      this.#subscriptions.get(event.topic)?._deliver(new Event(this, event));
    } else if (UNASKED.test(line)) {
      this.#end();
    } else if (REMOVED.test(line)) {
      const [, topic] = REMOVED.exec(line);
      this.#subscriptions.get(topic)?._fail(new HeraldError(line));
      this.#subscriptions.delete(topic);
    } else if (line !== "no available message") {
      this.#unanswered.shift()?.(line);
    }
  }

  #fail(error) {
    this.#error ??= error;
    for (const event of [...this.#unconfirmed]) event.fail(error);
    for (const subscription of this.#subscriptions.values()) subscription._fail(error);
  }
}

/** Pages without TLS have no `crypto.randomUUID`, but they have random bytes, as Node 18 has them in a module. */
function uuid() {
  if (globalThis.crypto?.randomUUID) return globalThis.crypto.randomUUID();
  const random = () => globalThis.crypto?.getRandomValues(new Uint32Array(1))[0] ?? Math.floor(Math.random() * 2 ** 32);
  return Array.from({ length: 4 }, () => random().toString(16).padStart(8, "0")).join("-");
}

async function openWebSocket(url, { WebSocket = globalThis.WebSocket }, { opened, line, ended }) {
  if (!WebSocket) throw new HeraldError("there is no WebSocket here: give one as an option, or connect to tcp://");
  const socket = new WebSocket(url);
  const link = { send: (text) => socket.send(text), close: () => socket.close() };
  opened(link);
  socket.onmessage = ({ data }) => line(data, link);
  socket.onerror = () => {}; // the end follows
  socket.onclose = ended;
}

async function openSocket(url, { ca }, { opened, line, ended }) {
  const { protocol, hostname, port } = new URL(url.replace(/^tcp:/, "http:").replace(/^tls:/, "https:"));
  const secure = protocol === "https:";
  const { connect } = await import(secure ? "node:tls" : "node:net");
  const host = hostname.replace(/^\[|\]$/g, "");
  const socket = connect({ host, port: Number(port || 8000), ca, servername: /^[\d.]+$|:/.test(host) ? undefined : host });
  const link = { send: (text) => socket.write(`${text}\n`), close: () => socket.destroy() };
  opened(link);
  socket.setNoDelay(true);
  socket.setEncoding("utf8");
  let rest = "";
  socket.on("data", (text) => {
    const lines = (rest + text).split("\r\n");
    rest = lines.pop();
    for (const text of lines) line(text, link);
  });
  socket.on("error", () => {}); // the end follows
  socket.on("close", ended);
}
