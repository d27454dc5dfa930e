// @ts-check
/** What the server is asked, and how what goes wrong is said. */

/** The server has said why not. */
export class Refused extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The server cannot be reached. */
export class Lost extends Error {}

let waiting = 0;

/** The page says that it waits for something, until as much has come. @param {1 | -1} by */
export function wait(by) {
  waiting += by;
  document.documentElement.toggleAttribute("data-waiting", waiting > 0);
}

/**
 * Asks the server; `body` is an object, or a file.
 * @param {string} path @param {object | Blob} [body] @param {AbortSignal} [signal] @returns {Promise<Response>}
 */
async function send(path, body, signal) {
  /** @type {Response} */
  let response;
  wait(1);
  try {
    response = await fetch(
      `/api/${path}`,
      body === undefined
        ? { signal }
        : {
            method: "POST",
            signal,
            ...(body instanceof Blob
              ? { body, headers: { "content-type": body.type || "application/octet-stream" } }
              : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
          },
    );
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Lost("The server cannot be reached. Is it still running?");
  } finally {
    wait(-1);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refused(said.error ?? `the server answered ${response.status}`, response.status);
}

/** @param {string} path @param {object | Blob} [body] @param {AbortSignal} [signal] @returns {Promise<any>} */
export const ask = async (path, body, signal) => (await send(path, body, signal)).json();

/** Downloads what the server writes. @param {string} path @param {object} body @param {string} name */
export async function download(path, body, name) {
  save(await (await send(path, body)).blob(), name);
}

/** @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * Does one thing at a time; of what comes meanwhile, only the last. So it follows a pointer as fast
 * as the answers come, and is never behind it by more than one.
 * @template T @param {(value: T) => Promise<void>} task @returns {(value: T) => void}
 */
export function latest(task) {
  let busy = false;
  /** @type {{ value: T } | null} */
  let next = null;
  /** @param {T} value */
  async function run(value) {
    next = { value };
    if (busy) return;
    busy = true;
    while (next) {
      const now = next.value;
      next = null;
      await task(now);
    }
    busy = false;
  }
  return (value) => void run(value);
}
