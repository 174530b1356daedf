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

/** Ends the task, so that the browser can draw and take input. */
export const pause = () => new Promise((done) => { setTimeout(done); });

/** The answer as JSON, or null if there is none. */
export async function request(method, path, body, options) {
  const response = await ask(method, path, body, options);
  return response.status === 204 ? null : response.json();
}

/** The answer, if it is none of a problem. */
export async function ask(method, path, body, { signal, type = 'application/json' } = {}) {
  const response = await patiently(() => send(method, path, body, signal, type), signal);
  if (!response.ok) throw await problem(response);
  return response;
}

/** A busy server is asked again when it says, give or take a second, so that not all requests come back at once. */
async function patiently(once, signal) {
  for (let left = TRIES; ; left -= 1) {
    const response = await once();
    if (response.status !== 429 || left === 1) return response;
    await response.body?.cancel(); // one that is not read keeps its connection
    await sleep(Math.min(30, Number(response.headers.get('Retry-After')) || 1) + Math.random());
    signal?.throwIfAborted();
  }
}

/** Call `otherwise` if a picture cannot be shown; one that the server was too busy for is asked for again. */
export function shown(image, otherwise) {
  image.addEventListener('error', async () => {
    const { src } = image;
    const response = await patiently(() => (image.isConnected ? fetch(src) : Promise.reject())).catch(() => null);
    await response?.arrayBuffer().catch(() => null);
    if (!response?.ok) return otherwise();
    image.addEventListener('error', otherwise, { once: true });
    return image.src = src;
  }, { once: true });
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
