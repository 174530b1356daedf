/** Requests to the server. Everything that goes wrong is an `ApiError`. */

const BASE = '/api/v1';
const TRIES = 4;

export class ApiError extends Error {
  /** `kind` is the last part of the problem's type, or `offline`. */
  constructor({ kind, status = 0, detail, hint = '', parameter = '', answer = {} }) {
    super(detail);
    Object.assign(this, { kind, status, detail, hint, parameter, answer });
  }
}

export const url = (path) => BASE + path;

/** The address of a row's picture; its hash lets the browser keep it. */
export function picture({ id, hash }, kind, width) {
  const query = new URLSearchParams({ ...(width && { width }), ...(hash && { v: hash }) });
  return url(`/images/${encodeURIComponent(id)}/${kind}?${query}`);
}

export const thumbnail = (hit, width) => picture(hit, 'thumbnail', width);

export const sleep = (seconds) => new Promise((done) => { setTimeout(done, 1000 * seconds); });

/** The answer as JSON, or null if there is none. A busy server is asked again when it says. */
export async function request(method, path, body, { signal, type = 'application/json' } = {}) {
  for (let left = TRIES; ; left -= 1) {
    const response = await send(method, path, body, signal, type);
    if (response.ok) return response.status === 204 ? null : response.json();
    if (response.status !== 429 || left === 1) throw await problem(response);
    await sleep(Math.min(30, Number(response.headers.get('Retry-After')) || 1));
    signal?.throwIfAborted();
  }
}

async function send(method, path, body, signal, type) {
  const isJson = type === 'application/json';
  try {
    return await fetch(url(path), { method, signal, credentials: 'same-origin',
      ...(body !== undefined && { headers: { 'Content-Type': type }, body: isJson ? JSON.stringify(body) : body }) });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError({ kind: 'offline', detail: 'The server cannot be reached.' });
  }
}

async function problem(response) {
  const given = await response.json().catch(() => ({}));
  const kind = given.type?.split('/').pop() ?? 'internal';
  return new ApiError({ detail: `The server answered ${response.status}.`, ...given, kind, status: response.status,
    answer: given });
}
