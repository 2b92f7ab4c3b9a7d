import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { run } from "./consume.mjs";

const [client, url, authority] = process.argv.slice(2);
const { Herald } = await import(pathToFileURL(client));
const ca = authority && readFileSync(authority);
await run(await Herald.connect(url, { token: "s3cret", ca }), console.log);
await Herald.connect(url, { token: "wrong", ca }).catch((error) => console.log(error.message));
