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
 * Leaving the loop gives back what is not settled, a second later, unless another loop over the same subscription begins. Closing the
 * client ends all loops. The option `connectTimeoutMs` (10,000; Infinity) says how long a broker is waited for at first.
 *
 * A lost connection is made again, subscriptions included, and what was not confirmed is published again with the same id: an event
 * may come twice, and nothing that was confirmed is lost. docs/protocol.md says how it works.
 */

// Errors that answer no command: after each of them the broker closes the connection, and another one may do better.
const UNASKED = /^error: (server is full|too many failed|tokens have changed|the storage was opened again)/;
const REMOVED = /^error: subscription ".*" of topic (\S+) was removed$/;
const MAX_PAUSE_MS = 5000;
const LEAVING_MS = 1000; // in which events in hand can still be settled, after the last loop was left

/** The broker has refused something; the message says what and why. */
export class HeraldError extends Error {}

/** What became of an event. As a string it is the broker's line. */
class Confirmation {
  #line;
  /** `outcome`: published, replaced, dropped; `level`: synced, written, memory, or what the broker says instead; null where it says nothing. */
  constructor(line) {
    this.#line = line;
    const [outcome, topic, id = null, level = null] = line.split(" ");
    Object.assign(this, { outcome, topic, id, level });
  }

  toString() { return this.#line; }
}

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

/** `for await (const event of subscription)`, in as many loops as you like: each event goes to one of them. */
class Subscription {
  #herald;
  #events = [];
  #waiting = [];
  #end = null; // how loops end
  #loops = 0;
  #leaving = null;
  attached = true;
  constructor(herald, topic, name) {
    this.#herald = herald;
    Object.assign(this, { topic, line: `SUBSCRIBE ${topic} ${name}` });
    this._await();
  }

  async next() {
    this._stay();
    if (!this.attached && !this.#end) await this.#herald._attach(this);
    if (this.#events.length) return { value: this.#events.shift(), done: false };
    if (this.#end) return this.#end();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  [Symbol.asyncIterator]() {
    let begun = false;
    const left = () => {
      if (begun && --this.#loops === 0 && this.attached && !this.#end) {
        this.#leaving = setTimeout(() => this.#herald._detach(this), LEAVING_MS);
      }
      begun = false;
    };
    return {
      next: () => {
        if (!begun) this.#loops++;
        begun = true;
        return this.next();
      },
      return: async (value) => { left(); return { value, done: true }; },
    };
  }

  /** Whether its last loop was left. */
  get _isLeft() { return this.#leaving !== null; }

  _await() {
    this.ready = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.ready.catch(() => {}); // whoever asks for events is told as well
  }

  _deliver(event) {
    const taker = this.#waiting.shift();
    if (taker) taker({ value: event, done: false });
    else this.#events.push(event);
  }

  _answered(line) {
    if (line?.startsWith("error: ")) {
      this.#herald._forget(this);
      this._fail(new HeraldError(line));
    } else if (line) {
      this.resolve(this);
    }
  }

  _forget() { this.#events = []; }

  _stay() {
    clearTimeout(this.#leaving);
    this.#leaving = null;
  }

  /** Ends it: loops throw `error`, or end as well where the client was closed. */
  _fail(error, closed = false) {
    this.#end ??= closed ? () => ({ value: undefined, done: true }) : () => Promise.reject(error);
    this._stay();
    this._forget();
    this.reject(error);
    for (const taker of this.#waiting.splice(0)) taker(this.#end());
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

  /** Connects; waits for a broker that is not there yet, up to `connectTimeoutMs`. */
  static async connect(url, options = {}) {
    const herald = new Herald();
    herald.#url = url;
    herald.#options = { silenceMs: 30000, connectTimeoutMs: 10000, ...options };
    const { client = "herald.mjs", prefetch = 100, token } = options;
    herald.#hello = `hello ${JSON.stringify({ client, prefetch, token, confirm: true })}`;
    const { connectTimeoutMs } = herald.#options;
    let timer;
    try {
      await new Promise((resolve, reject) => {
        const late = () => reject(new HeraldError(`no broker at ${url} within ${connectTimeoutMs} ms`));
        if (connectTimeoutMs < 2 ** 31) timer = setTimeout(late, connectTimeoutMs);
        herald.#run(resolve, reject);
      });
    } catch (error) {
      herald.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
    return herald;
  }

  /** Publishes an event; `options`: id, priority, ttl_ms, delay_ms. Resolves to its confirmation: outcome, topic, id, level. */
  publish(topic, msg = null, options = {}) {
    const wrong = this.#error ?? wrongName("topic", topic);
    if (wrong) return Promise.reject(wrong);
    const line = `PUBLISH ${topic} ${JSON.stringify({ ...options, id: options.id ?? uuid(), msg })}`;
    return new Promise((resolve, reject) => {
      const settled = (done, value) => { this.#unconfirmed.delete(event); done(value); };
      const answered = (answer) => {
        if (answer === null) return; // the connection was lost, and the next one publishes it again
        if (answer.startsWith("error: ")) settled(reject, new HeraldError(answer));
        else settled(resolve, new Confirmation(answer));
      };
      const event = { line, answered, fail: (error) => settled(reject, error) };
      this.#unconfirmed.add(event);
      this.#send(line, answered);
    });
  }

  /** Attaches to a durable subscription; without a name to one of this connection's own, which is lost with it. */
  async subscribe(topic, name = "") {
    const wrong = wrongName("topic", topic) ?? (name && wrongName("subscription", name));
    if (wrong) throw wrong;
    return this._attach(new Subscription(this, topic, name));
  }

  async _attach(subscription) {
    if (this.#error) throw this.#error;
    const { topic, attached } = subscription;
    const other = this.#subscriptions.get(topic);
    if (other?._isLeft) this._detach(other);
    else if (other && other !== subscription) {
      throw new HeraldError(`error: already subscribed to topic ${topic} on this client; leave its loop or detach first`);
    }
    if (!attached) subscription._await();
    subscription.attached = true;
    if (other !== subscription) {
      this.#subscriptions.set(topic, subscription);
      this.#send(subscription.line, (line) => subscription._answered(line));
    }
    return subscription.ready;
  }

  /** Detaches from a topic, which ends loops; a durable subscription stays, and what was not acknowledged waits in it. */
  async detach(topic) {
    const subscription = this.#subscriptions.get(topic);
    if (!subscription) return;
    const detached = this._detach(subscription);
    subscription._fail(new HeraldError(`detached from topic ${topic}`), true);
    await detached;
  }

  _detach(subscription) {
    subscription.attached = false;
    subscription._stay();
    subscription._forget();
    this._forget(subscription);
    return this._settle(`detach ${subscription.topic}`);
  }

  _forget({ topic }) { this.#subscriptions.delete(topic); }

  /** Ends it: what is not confirmed fails, and loops end. */
  close() {
    this.#fail(new HeraldError("the client is closed"), true);
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

  #fail(error, closed) {
    this.#error ??= error;
    for (const event of [...this.#unconfirmed]) event.fail(error);
    for (const subscription of this.#subscriptions.values()) subscription._fail(error, closed);
    for (const answered of this.#unanswered.splice(0)) answered(null);
  }
}

/** A name with a blank would be two words of the command, and one with a line break two commands. */
function wrongName(kind, name) {
  if (/^[^\s\x00-\x1f\x7f]+$/.test(name)) return null;
  return new HeraldError(`error: invalid ${kind} name ${JSON.stringify(name)}: a name is made of A-Z a-z 0-9 . _ : -`);
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
