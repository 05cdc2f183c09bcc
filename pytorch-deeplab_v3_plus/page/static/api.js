/** Talking to the server: requests whose errors are the server's one line, and its events. */

/** The server answered with an error; the message is its line. */
export class Refusal extends Error {
  constructor(line, status) {
    super(line);
    this.status = status;
  }
}

/** The server did not answer. */
export class Away extends Error {}

let data = {}; // the header that names the data set of this page

/** Have every further request say which data set it is for: another one may be served at this address by then. */
export function belongsTo(folder) {
  data = { "Rloss-Data": encodeURIComponent(folder) };
}

/** Send a request (a File as it is, anything else as JSON) and return the answer; throws Refusal or Away. */
export async function request(method, path, body, timeout = 30_000) {
  const asJSON = body !== undefined && !(body instanceof Blob);
  let response;
  try {
    response = await fetch(path, {
      method,
      body: asJSON ? JSON.stringify(body) : body,
      headers: asJSON ? { ...data, "Content-Type": "application/json" } : data,
      signal: timeout ? AbortSignal.timeout(timeout) : undefined,
    });
  } catch {
    throw new Away();
  }
  if (response.ok) return response;
  if (response.status === 421) location.reload(); // the page of the other data set
  const answer = await response.json().catch(() => ({}));
  throw new Refusal(answer.error ?? `${response.status} ${response.statusText}`, response.status);
}

export const get = async (path, timeout) => (await request("GET", path, undefined, timeout)).json();

export const imagePath = (id, what) => `api/images/${encodeURIComponent(id)}/${what}`;

/**
 * The server's events, for as long as the page is visible: a browser opens only six connections to one address, which
 * as many hidden tabs would take up. Calls `opened` when there may be news, `changed` with each message, and `away`
 * when the server is gone.
 */
export function listen({ opened, changed, away }) {
  let source, timer;
  const open = () => {
    clearTimeout(timer);
    source?.close();
    if (document.hidden) return;
    source = new EventSource("api/events");
    source.onopen = opened;
    source.onmessage = ({ data }) => changed(JSON.parse(data).changed);
    source.onerror = () => {
      source.close();
      away();
      timer = setTimeout(open, 1000);
    };
  };
  document.addEventListener("visibilitychange", open);
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", ({ persisted }) => persisted && open());
  open();
}
